use std::fmt;
use std::str::FromStr;

use siphasher::sip128::SipHasher13;
use uuid::Uuid;

use crate::Value;

/// The id of a profile or a group: a UUID of version 7, so that ids sort by time of creation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub [u8; 16]);

impl RecordId {
    /// A new id, greater than all that this process created before.
    pub fn create() -> Self {
        Self(Uuid::now_v7().into_bytes())
    }
}

/// The ids of records that several threads create together, in parts: every id of a part is greater than those of the parts
/// before it.
///
/// A counter follows the time (RFC 9562, 6.2, method 1): 16 bits for the part, 26 for the number in the part. The last 32
/// bits are random, and the same for all ids.
#[derive(Clone, Copy, Debug)]
pub struct RecordIds(u128);

impl RecordIds {
    const IN_PART: u32 = 26;

    /// Ids with the current time.
    pub fn now() -> Self {
        Self(Uuid::now_v7().as_u128())
    }

    /// The id of the `number`-th record of a part, from 0 on.
    pub fn get(&self, part: u16, number: u32) -> RecordId {
        if number >> Self::IN_PART > 0 {
            return RecordId::create();
        }
        let counter = u128::from(part) << Self::IN_PART | u128::from(number);
        // Version and variant split the counter: 12 bits come before, 30 after.
        let (high, low) = (counter >> 30, counter & ((1 << 30) - 1));
        let [time, version, variant, random] =
            [u128::MAX << 80, 0xf << 76, 0b11 << 62, u128::from(u32::MAX)].map(|mask| self.0 & mask);
        RecordId((time | version | high << 64 | variant | low << 32 | random).to_be_bytes())
    }
}

impl AsRef<[u8]> for RecordId {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for RecordId {
    type Err = uuid::Error;

    /// Reads the hyphenated or plain form of a UUID, in any case.
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Ok(Self(Uuid::try_parse(text)?.into_bytes()))
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number of a property in the dictionary of a store. A number is never reused for another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PropertyId(pub u32);

/// A space, in which identifiers are unique: the number of a domain group of profiles, or of a type of group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub u32);

/// An identifier in canonical bytes: a space, a property and a value, which lead to a record.
///
/// Eight bytes of space and property, big endian, then the value's canonical text. A text longer than
/// [`Identifier::MAX_TEXT_BYTES`] is replaced by a zero byte and its BLAKE3 hash; no text of an
/// identifier starts with a zero byte, because rows with NUL bytes are rejected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identifier(pub Vec<u8>);

impl Identifier {
    /// Longer texts are replaced by their hash.
    pub const MAX_TEXT_BYTES: usize = 64;

    /// The identifier of `value`.
    pub fn new(space: SpaceId, property: PropertyId, value: &Value) -> Self {
        let mut bytes = Vec::with_capacity(40);
        Self::write(space, property, value.text().as_bytes(), &mut bytes);
        Self(bytes)
    }

    /// Appends the canonical bytes of a value, of which `text` is the canonical text.
    pub fn write(space: SpaceId, property: PropertyId, text: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&space.0.to_be_bytes());
        out.extend_from_slice(&property.0.to_be_bytes());
        if text.len() <= Self::MAX_TEXT_BYTES {
            out.extend_from_slice(text);
        } else {
            out.push(0);
            out.extend_from_slice(blake3::hash(text).as_bytes());
        }
    }

    /// The canonical text in canonical bytes, if they hold the text and not its hash.
    pub fn short_text(bytes: &[u8]) -> Option<&[u8]> {
        bytes.get(8..).filter(|text| text.first() != Some(&0))
    }
}

/// The key of an [`Identifier`] in a store: the number of its property (32 bits), then 96 bits of its keyed hash.
///
/// Without the store's key, no one can construct two identifiers with the same hash. By chance, among a billion values of
/// a property, two have the same hash in one of 10^11 stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentifierHash(pub u128);

impl IdentifierHash {
    const BITS: u32 = 96;

    /// The property.
    pub fn property(self) -> PropertyId {
        PropertyId((self.0 >> Self::BITS) as u32)
    }
}

/// Hashes the identifiers of one store: 96 of the 128 bits of SipHash-1-3 (Aumasson and Bernstein, 2012), the keyed hash that
/// Rust's hash tables use against keys that were chosen to collide.
#[derive(Clone, Copy)]
pub struct IdentifierHasher(SipHasher13);

impl IdentifierHasher {
    /// Hashes with the key of a store.
    pub fn new(key: &[u8; 16]) -> Self {
        Self(SipHasher13::new_with_key(key))
    }

    /// The hash of an [`Identifier`]'s bytes.
    pub fn hash(&self, identifier: &[u8]) -> IdentifierHash {
        let property =
            identifier.get(4..).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_be_bytes);
        let hash = u128::from(self.0.hash(identifier));
        IdentifierHash(u128::from(property) << IdentifierHash::BITS | hash >> (128 - IdentifierHash::BITS))
    }
}

impl fmt::Debug for IdentifierHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentifierHasher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow() {
        let ids: Vec<RecordId> = (0..1000).map(|_| RecordId::create()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(ids[0].to_string().parse(), Ok(ids[0]));
    }

    #[test]
    fn ids_grow_with_part_and_number() {
        let ids = RecordIds::now();
        let places = [(0, 0), (0, 1), (0, (1 << 26) - 1), (1, 0), (700, 3), (u16::MAX, 0)];
        let created = places.map(|(part, number)| ids.get(part, number));
        assert!(created.array_windows().all(|[one, next]| one < next), "{created:?}");
        for id in created {
            let uuid = Uuid::from_bytes(id.0);
            assert_eq!((uuid.get_version_num(), uuid.get_variant()), (7, uuid::Variant::RFC4122));
        }
        assert!(RecordIds::now().get(0, 0).0[12..] != created[0].0[12..]);
    }

    #[test]
    fn hashes_hold_the_property_and_depend_on_the_key() {
        // Stores hold these hashes: they must never change.
        let bytes: Vec<u8> = (0..15).collect();
        let hasher = IdentifierHasher::new(&std::array::from_fn(|place| place as u8));
        let hash = hasher.hash(&bytes);
        assert_eq!(hash.property(), PropertyId(0x0405_0607));
        assert_eq!(hash.0 & ((1 << 96) - 1), 2_787_169_602_854_215_059_252_624_818);
        assert_ne!(IdentifierHasher::new(&[0; 16]).hash(&bytes), hash);
        assert_eq!(format!("{hasher:?}"), "IdentifierHasher { .. }");
    }

    #[test]
    fn long_values_are_hashed() {
        let of = |text: &str| Identifier::new(SpaceId(1), PropertyId(2), &Value::Text(text.into())).0;
        assert_eq!(of("a@x.nl"), b"\0\0\0\x01\0\0\0\x02a@x.nl");
        assert_eq!(of(&"a".repeat(1000)).len(), 8 + 1 + 32);
        assert_ne!(of(&"a".repeat(1000)), of(&"a".repeat(1001)));
    }
}
