//! Real servers and programs that tests work with: SeaweedFS as S3, GnuPG as the partner's OpenPGP, and a proxy that
//! injects faults.

pub(crate) mod gpg;
pub(crate) mod proxy;
pub(crate) mod s3;
