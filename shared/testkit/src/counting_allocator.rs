//! An allocator that knows the most memory the calling thread has held at once. A test program that
//! wants to know makes it its `#[global_allocator]`.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts for each thread by itself, so that tests beside each other do not disturb each other.
pub struct CountingAllocator;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has no counters any more.
    let held = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        held.get()
    });
    if let Ok(held) = held {
        PEAK.try_with(|peak| peak.set(peak.get().max(held))).ok();
    }
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

// SAFETY: every call goes to the system's allocator unchanged; counting neither allocates nor
// unwinds.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Old and new may both exist while the bytes move.
        count(signed(new_size));
        // SAFETY: the caller's promises are passed on.
        let moved = unsafe { System.realloc(pointer, layout, new_size) };
        count(-signed(layout.size()));
        moved
    }
}

/// Measures the calling thread from some moment on.
#[derive(Clone, Copy, Debug)]
pub struct PeakMeter {
    held_before: isize,
}

impl PeakMeter {
    /// Begins now. There is one measurement of a thread at a time.
    pub fn start() -> Self {
        let held_before = HELD.with(Cell::get);
        PEAK.with(|peak| peak.set(held_before));
        Self { held_before }
    }

    /// The most bytes held since then, beyond those held before.
    pub fn peak(self) -> usize {
        usize::try_from(PEAK.with(Cell::get) - self.held_before).unwrap_or(0)
    }
}

/// The most bytes that the calling thread holds at once during `work`, beyond those it holds now.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let meter = PeakMeter::start();
    let result = work();
    (result, meter.peak())
}
