//! Once a call is up, nothing that a bridge does for it allocates: packets both ways, reports, consent checks, keys.

mod common;

use common::{IN_BRIDGE, Kind, Speech, World};
use engine::sdp::Codec;
use engine::srtp::SrtpProfile;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what is asked for while the bridge is at work, on any thread.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn count() {
    if IN_BRIDGE.try_with(std::cell::Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(a: Kind, b: Kind) -> (u64, u64) {
    let mut world = World::connected(1, a, b);
    let now = world.now;
    world.peers[0].start(now, Speech::Tone(440.0));
    world.peers[1].start(now, Speech::Tone(1_000.0));
    world.run_ms(2_000);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let sent_before = world.left[0].len() + world.left[1].len();
    // Long enough for consent checks and several reports on both legs.
    world.run_ms(20_000);
    world.peers[0].press("12");
    world.peers[1].press("3");
    world.links[0].loss_pct = 10;
    world.links[2].loss_pct = 10;
    world.run_ms(5_000);
    assert!(world.rtcp_left.iter().all(|&reports| reports >= 3));
    let sent = world.left[0].len() + world.left[1].len() - sent_before;
    (ALLOCATIONS.load(Ordering::Relaxed) - before, sent as u64)
}

/// One test: the counter is one for the whole program.
#[test]
fn no_frame_of_a_call_allocates() {
    assert!(ALLOCATIONS.load(Ordering::Relaxed) == 0);
    let (opus, pcmu) = (Codec::Opus, Codec::Pcmu);
    for (a, b) in [
        (Kind::WhatsApp(opus), Kind::Rtp(pcmu)),
        (Kind::Browser(opus), Kind::Rtp(Codec::Pcma)),
        (Kind::WhatsApp(opus), Kind::Browser(opus)),
        (Kind::Rtp(pcmu), Kind::Rtp(Codec::Pcma)),
        (Kind::Sdes(pcmu, SrtpProfile::AesCm256HmacSha1_32), Kind::Sdes(opus, SrtpProfile::AeadAes256Gcm)),
    ] {
        let (allocations, sent) = allocations(a, b);
        assert!(sent > 2_000, "{sent}");
        assert_eq!(allocations, 0, "{a:?} {b:?}: over {sent} packets");
    }
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > 100, "setting up does allocate, so the counter counts");
}
