//! What the processor costs without the sandbox: `sluicebox plugin bench` shows it beside the cost within.

fn main() {
    sluicebox_sdk::testing::bench::<email_normalizer::EmailNormalizer>();
}
