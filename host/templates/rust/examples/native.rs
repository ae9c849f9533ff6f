//! Measures the processor without the sandbox, for `sluicebox plugin bench`.

fn main() {
    sluicebox_sdk::testing::bench::<{{library}}::Shout>();
}
