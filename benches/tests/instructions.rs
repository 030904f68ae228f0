//! No change makes the packet path dearer without saying so: instructions and allocations against what is recorded.

use std::process::Command;

#[test]
fn the_packet_path_costs_no_more_instructions_and_allocations_than_recorded() {
    let output = Command::new(env!("CARGO_BIN_EXE_instructions")).arg("check").output().unwrap();
    let (table, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{table}\n{complaint}");
    // A table that lost its works would pass as well.
    assert!(table.lines().count() >= 13 && table.contains("0 allocations"), "{table}");
}
