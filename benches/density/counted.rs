//! The gateway with an allocator that knows who holds what: its media workers, or all other threads.
//!
//! ```text
//! counted edge            `tandem edge`, by its environment
//! counted gateway PORT N  the engine alone behind `driver`'s door
//! ```
//! Every line on stdin is answered by one on stdout: live bytes that the workers asked for, those that everybody else asked for, and those
//! of C's heap (libopus, and what aws-lc keeps). `density memory` reads them while calls are added.
//!
//! Whoever asked for memory holds it until it is given back, by whatever thread: the owner stands in front of each piece.
//!
//! Why a program of its own: what is resident is measured of the program that is shipped, which has no such owners.

#[allow(dead_code, reason = "the generator's side of a door")]
mod dial;
mod driver;
#[allow(dead_code, reason = "the generator's side of SIP")]
mod sip;

use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicI64, Ordering};

/// Whose a piece of memory is.
const OTHERS: u8 = 0;
const WORKERS: u8 = 1;

/// What the names of the engine's threads begin with.
const WORKER_NAME: &[u8] = b"media-";

/// Looks at a thread's name after which it keeps the one it has: at first it has its maker's.
const LOOKS_MAX: u8 = 64;

/// Room in front of a piece: its last byte names the owner.
const ROOM: usize = 16;

static LIVE: [AtomicI64; 2] = [AtomicI64::new(0), AtomicI64::new(0)];

thread_local! {
    static OWNER: Cell<u8> = const { Cell::new(OTHERS) };
    static LOOKS: Cell<u8> = const { Cell::new(0) };
}

/// The allocator of the program that is shipped, with owners.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Who this thread is.
fn owner() -> u8 {
    let looks = LOOKS.try_with(Cell::get).unwrap_or(LOOKS_MAX);
    if looks < LOOKS_MAX {
        let mut name = [0u8; 16];
        // SAFETY: the kernel writes at most 16 bytes.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        let is_worker = name.starts_with(WORKER_NAME);
        let _ = OWNER.try_with(|owner| owner.set(if is_worker { WORKERS } else { OTHERS }));
        let _ = LOOKS.try_with(|count| count.set(if is_worker { LOOKS_MAX } else { looks + 1 }));
    }
    OWNER.try_with(Cell::get).unwrap_or(OTHERS)
}

fn count(owner: u8, bytes: i64) {
    LIVE[usize::from(owner & 1)].fetch_add(bytes, Ordering::Relaxed);
}

/// Bytes in front of a piece, and the layout of both.
fn whole(layout: Layout) -> (usize, Layout) {
    let room = layout.align().max(ROOM);
    // What fits into an address space with 16 bytes less fits: nobody asks for more.
    let whole = Layout::from_size_align(layout.size().saturating_add(room), room).unwrap_or(layout);
    (room, whole)
}

// SAFETY: what is handed out lies `room` bytes behind the start of a piece that is `room` bytes longer and aligned to it, which is what is
// given back; the byte before it is ours.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (room, whole) = whole(layout);
        // SAFETY: the layout is not empty.
        let start = unsafe { MiMalloc.alloc(whole) };
        if start.is_null() {
            return start;
        }
        let owner = owner();
        count(owner, layout.size() as i64);
        // SAFETY: within the piece.
        unsafe {
            start.add(room - 1).write(owner);
            start.add(room)
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let (room, whole) = whole(layout);
        // SAFETY: `pointer` came from `alloc` with this layout.
        unsafe {
            count(pointer.sub(1).read(), -(layout.size() as i64));
            MiMalloc.dealloc(pointer.sub(room), whole);
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (room, whole) = whole(layout);
        // SAFETY: `pointer` came from `alloc` with this layout; the owner moves along with the bytes.
        unsafe {
            let owner = pointer.sub(1).read();
            let start = MiMalloc.realloc(pointer.sub(room), whole, size.saturating_add(room));
            if start.is_null() {
                return start;
            }
            count(owner, size as i64 - layout.size() as i64);
            start.add(room)
        }
    }
}

fn main() -> ExitCode {
    let asked = std::thread::Builder::new().name("asked".to_owned()).spawn(answer);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match (asked, &words[..]) {
        (Ok(_), ["gateway", port, workers]) => match (port.parse(), workers.parse()) {
            (Ok(port), Ok(workers)) => {
                engine::io::system::raise_open_files();
                match driver::run(port, workers) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(error) => {
                        eprintln!("{error:#}");
                        ExitCode::FAILURE
                    }
                }
            }
            _ => ExitCode::FAILURE,
        },
        (Ok(_), _) => control::cli::main(),
        (Err(error), _) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers every line with the figures.
fn answer() {
    for line in std::io::stdin().lock().lines() {
        // SAFETY: numbers only.
        let c_heap = unsafe { libc::mallinfo2() };
        let [others, workers] = [&LIVE[0], &LIVE[1]].map(|live| live.load(Ordering::Relaxed));
        let mut out = std::io::stdout().lock();
        let said = writeln!(out, "{workers} {others} {}", c_heap.uordblks + c_heap.hblkhd);
        if line.is_err() || said.and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}
