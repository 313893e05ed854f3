//! Descriptors and completions of AF_XDP rings, with any address, length and flag.
//!
//! Invariants: every frame is in one place and none leaks; a descriptor yields a frame only of a chunk that the kernel had
//! on that very queue, and never bytes beyond the chunk; an address is believed at most once for each time it was given.

use std::cell::RefCell;

use florelay_xsk::fuzzing::Kernel;

use crate::input::Input;

thread_local! {
    // Its memory is never unmapped, so one serves all inputs.
    static KERNEL: RefCell<Kernel> = RefCell::new(Kernel::new().expect("memory for 32 frames"));
}

/// One input: what the kernel does, step by step.
pub fn run(bytes: &[u8]) {
    KERNEL.with_borrow_mut(|kernel| {
        let mut input = Input::new(bytes);
        while !input.is_empty() {
            let op = input.byte();
            let queue = op & 0x80 != 0;
            match op & 7 {
                0 => kernel.fill(queue, usize::from(input.byte() % 16)),
                1 => kernel.send(queue, usize::from(input.short())),
                2 => kernel.free(),
                3 => drop(kernel.received(queue, input.number(), input.number() as u32, op & 0x40 != 0)),
                4 => drop(kernel.completed(queue, input.number())),
                choice => {
                    let near = u64::from(input.byte());
                    let Some(given) = kernel.given(usize::from(input.byte())) else { continue };
                    // Somewhere in the chunk, as drivers put packets behind a headroom.
                    let address = given.wrapping_add(near);
                    if choice == 5 {
                        kernel.received(queue, address, input.number() as u32, op & 0x40 != 0);
                    } else {
                        kernel.completed(queue, address);
                    }
                }
            }
            kernel.check();
        }
        kernel.reset();
    });
}

/// Frames that go to the rings and come back; the same descriptor twice; one of the other queue.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    vec![
        vec![0, 8, 5, 0, 0, 60, 5, 0, 1, 60, 2, 1, 0, 60, 6, 0, 8],
        vec![0, 4, 5, 0, 0, 60, 5, 0, 0, 60, 0x85, 0, 1, 60, 0x45, 0, 2, 60],
        vec![1, 5, 220, 0x81, 0, 60, 6, 0, 0, 6, 0, 0, 0x86, 0, 1, 2, 3, 200, 8, 4, 4, 230, 255],
    ]
}
