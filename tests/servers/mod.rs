//! Real servers and programs that tests talk to: SeaweedFS as S3, GnuPG as the other side of OpenPGP, and a proxy that
//! breaks what passes through it.

pub(crate) mod gpg;
pub(crate) mod proxy;
pub(crate) mod s3;
