use crate::keys::KeyKind;

/// The key that hashes of erased identifiers are made with. It is no part of the store: without it, a copy of the store
/// does not tell which addresses were erased.
pub type ErasureKey = [u8; 32];

/// The key of an erased identifier's tombstone.
pub(crate) fn tombstone(key: &ErasureKey, identifier: &[u8]) -> Vec<u8> {
    KeyKind::Erased.key(blake3::keyed_hash(key, identifier).as_bytes())
}
