use std::fmt;
use std::str::FromStr;

use siphasher::sip128::SipHasher13;
use uuid::Uuid;

use crate::Value;

/// The id of a profile or a group: a UUID of version 7, so that ids sort by the time of creation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(pub [u8; 16]);

impl RecordId {
    /// A new id that is greater than every id made before it in this process.
    pub fn create() -> Self {
        Self(Uuid::now_v7().into_bytes())
    }
}

/// Makes the ids of records that are created together, in parts that may be made at the same time: every id of a part is greater
/// than those of the parts before it.
///
/// As RFC 9562 (6.2, method 1) has it, a counter follows the time: 16 bits for the part, 26 for the number in it. The last 32
/// bits are random, and the same for all.
#[derive(Clone, Copy, Debug)]
pub struct RecordIds(u128);

impl RecordIds {
    const IN_PART: u32 = 26;

    /// Ids of this moment.
    pub fn now() -> Self {
        Self(Uuid::now_v7().as_u128())
    }

    /// The id of the `number`-th record of a part, from 0 on.
    pub fn get(&self, part: u16, number: u32) -> RecordId {
        if number >> Self::IN_PART > 0 {
            return RecordId::create();
        }
        let counter = u128::from(part) << Self::IN_PART | u128::from(number);
        // Version and variant lie between: twelve bits of the counter before, thirty after.
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

/// A property's number in the dictionary of a store. Numbers are never used again for another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PropertyId(pub u32);

/// Where identifiers are unique: the number of a domain group of profiles, or of a type of group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub u32);

/// The canonical bytes of "this value of this property in this space", by which a record is found.
///
/// Eight bytes of space and property, big endian, then the value's canonical text. A text longer than
/// [`Identifier::LONGEST_TEXT`] is replaced by a zero byte and its BLAKE3 hash; no text of an
/// identifier starts with a zero byte, because rows with NUL bytes are rejected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identifier(pub Vec<u8>);

impl Identifier {
    /// Bytes of text that are kept as they are.
    pub const LONGEST_TEXT: usize = 64;

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
        if text.len() <= Self::LONGEST_TEXT {
            out.extend_from_slice(text);
        } else {
            out.push(0);
            out.extend_from_slice(blake3::hash(text).as_bytes());
        }
    }

    /// The canonical text of canonical bytes, if they hold it, and not its hash.
    pub fn short_text(bytes: &[u8]) -> Option<&[u8]> {
        bytes.get(8..).filter(|text| text.first() != Some(&0))
    }
}

/// What a store knows an [`Identifier`] by: the number of its property (32 bits), then 96 bits of its keyed hash.
///
/// Whoever does not know the store's key cannot look for two identifiers with the same hash. By chance, a thousand million values of
/// a property have two in one of 10^11 stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentifierHash(pub u128);

impl IdentifierHash {
    const BITS: u32 = 96;

    /// The property.
    pub fn property(self) -> PropertyId {
        PropertyId(u32::try_from(self.0 >> Self::BITS).unwrap_or_default())
    }
}

/// Hashes the identifiers of one store: SipHash-1-3 with 128 bits (Aumasson and Bernstein, 2012), of which 96 are taken.
/// It is what Rust's own hash tables keep strangers' keys apart with.
#[derive(Clone, Copy)]
pub struct IdentifierHasher(SipHasher13);

impl IdentifierHasher {
    /// Hashes with a store's key.
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
    fn ids_of_parts_grow_with_part_and_number() {
        let ids = RecordIds::now();
        let places = [(0, 0), (0, 1), (0, (1 << 26) - 1), (1, 0), (700, 3), (u16::MAX, 0)];
        let made = places.map(|(part, number)| ids.get(part, number));
        assert!(made.array_windows().all(|[one, next]| one < next), "{made:?}");
        for id in made {
            let uuid = Uuid::from_bytes(id.0);
            assert_eq!((uuid.get_version_num(), uuid.get_variant()), (7, uuid::Variant::RFC4122));
        }
        assert!(RecordIds::now().get(0, 0).0[12..] != made[0].0[12..]);
    }

    #[test]
    fn hashes_tell_the_property_and_hang_on_the_key() {
        // Stores have these hashes: they stay what they are.
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
