//! Numbers that look random and are the same in each run.

/// Xorshift. <https://www.jstatsoft.org/article/view/v008i14>
pub(crate) struct Random(pub u64);

impl Random {
    /// A number below another one.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
