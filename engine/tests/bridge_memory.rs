//! What a bridge takes of the heap once its media is up, by kind of call.
//!
//! Counted is what the bridge asks of Rust's allocator. The states of libopus, encoder and decoder, come from C's: their sizes are the
//! library's own and are added where there are codecs.

mod common;

use common::{IN_BRIDGE, Kind, Speech, World};
use engine::bridge::Bridge;
use engine::sdp::Codec;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering};

/// Counts the bytes that the bridge asked for and has not given back.
struct Counting;

static BYTES: AtomicI64 = AtomicI64::new(0);

fn count(bytes: i64) {
    if IN_BRIDGE.try_with(Cell::get).unwrap_or(false) {
        BYTES.fetch_add(bytes, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64);
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const KIB: usize = 1_024;

/// What libopus 1.6.1 says of its states: an encoder of mono with its SILK half only, and a decoder of mono.
const OPUS_BYTES: usize = 24_584 + 18_468;

/// Bytes of a call that has talked for most of a minute, keys and reports included, so that nothing of the handshakes is left; the peers are
/// not counted.
fn bytes(a: Kind, b: Kind) -> usize {
    let before = BYTES.load(Ordering::Relaxed);
    let mut world = World::connected(1, a, b);
    let now = world.now;
    world.peers[0].start(now, Speech::Tone(440.0));
    world.peers[1].start(now, Speech::Tone(1_000.0));
    world.run_ms(35_000);
    world.peers[0].press("12");
    world.run_ms(10_000);
    assert!(world.left.iter().all(|left| left.len() > 1_000), "both directions are up");
    let heap = BYTES.load(Ordering::Relaxed) - before;
    let transcodes = if a.codec() == b.codec() { 0 } else { OPUS_BYTES };
    size_of::<Bridge>() + usize::try_from(heap).unwrap() + transcodes
}

/// One test: the counter is one for the whole program.
#[test]
fn a_call_takes_no_more_memory_than_is_planned_for_it() {
    let (opus, pcmu) = (Codec::Opus, Codec::Pcmu);
    // What the bridges of a thread share is taken with the first packet that waits.
    bytes(Kind::WhatsApp(opus), Kind::Rtp(pcmu));
    for (a, b, bytes_max) in [
        (Kind::WhatsApp(opus), Kind::Rtp(pcmu), 61 * KIB),
        (Kind::WhatsApp(opus), Kind::Rtp(opus), 8 * KIB),
        (Kind::Browser(opus), Kind::Rtp(opus), 8 * KIB),
        (Kind::WhatsApp(opus), Kind::Browser(opus), 12 * KIB),
        (Kind::Rtp(pcmu), Kind::Rtp(pcmu), 5 * KIB),
    ] {
        let bytes = bytes(a, b);
        println!("{a:?} {b:?}: {bytes} bytes");
        assert!(bytes <= bytes_max, "{a:?} {b:?}: {bytes} bytes");
        assert!(bytes > bytes_max / 2, "{a:?} {b:?}: {bytes} bytes: the plan is out of date");
    }
}
