//! Keys that the store derives from names and settings.

/// A hash of several parts, each with its length before it, so that no two lists of parts are the same bytes.
///
/// The store keeps these hashes: the scheme never changes.
pub(crate) struct Fingerprint(blake3::Hasher);

impl Fingerprint {
    /// The fingerprint of no parts.
    pub(crate) fn new() -> Self {
        Self(blake3::Hasher::new())
    }

    /// The fingerprint of some parts.
    pub(crate) fn of<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> [u8; 32] {
        let mut fingerprint = Self::new();
        parts.into_iter().for_each(|part| fingerprint.add(part.as_ref()));
        fingerprint.finish()
    }

    /// Adds a part.
    pub(crate) fn add(&mut self, part: &[u8]) {
        self.0.update(&(part.len() as u64).to_le_bytes()).update(part);
    }

    /// The hash of all parts.
    pub(crate) fn finish(&self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_never_changes() {
        let bytes = b"\x04\0\0\0\0\0\0\0shop\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a";
        assert_eq!(Fingerprint::of(["shop", "", "a"]), *blake3::hash(bytes).as_bytes());
    }

    #[test]
    fn where_a_part_ends_matters() {
        assert_ne!(Fingerprint::of(["ab", "c"]), Fingerprint::of(["a", "bc"]));
        assert_ne!(Fingerprint::of(["ab"]), Fingerprint::of(["ab", ""]));
    }
}
