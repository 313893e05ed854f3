//! Structured choices out of a fuzzer's bytes. Whatever is left is a valid input: past the end everything is zero.

/// A cursor over one input.
#[derive(Debug, Clone)]
pub(crate) struct Input<'i> {
    rest: &'i [u8],
}

impl<'i> Input<'i> {
    /// At the start of an input.
    #[must_use]
    pub(crate) fn new(bytes: &'i [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Nothing is left.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// The next two bytes.
    pub(crate) fn short(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// A number of any size, small ones and those at the edges of types more often.
    pub(crate) fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=127 => small.into(),
            128..=159 => self.short().into(),
            160..=191 => u32::from_be_bytes(self.array()).into(),
            192..=223 => u64::from_be_bytes(self.array()),
            edge => {
                let shift = u32::from(self.byte() % 64);
                // 2^n − 1, 2^n, 2^n + 1, and the same from above
                let near = (1_u64 << shift).wrapping_add(u64::from(edge % 3)).wrapping_sub(1);
                if edge % 2 == 0 { near } else { u64::MAX - near }
            }
        }
    }

    /// Up to `max` bytes; how many, the next two bytes say.
    pub(crate) fn bytes(&mut self, max: usize) -> &'i [u8] {
        let wanted = usize::from(self.short());
        let len = if max == 0 { 0 } else { wanted % (max + 1) };
        self.take(len)
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'i [u8] {
        std::mem::take(&mut self.rest)
    }

    fn take(&mut self, len: usize) -> &'i [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.take(N);
        let mut array = [0; N];
        array[..taken.len()].copy_from_slice(taken);
        array
    }
}
