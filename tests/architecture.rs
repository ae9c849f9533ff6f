//! Dependencies point one way: model ← {files, processors, matching, store} ← host; plugins know the SDK alone.

use std::process::Command;

use serde_json::Value;

#[test]
fn dependencies_point_one_way() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(std::env::var_os("CARGO_MANIFEST_DIR").unwrap())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut seen = 0;
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let place = package["manifest_path"].as_str().unwrap();
        let plugin = place.contains("/plugins/") || place.contains("/tests/hostile/");
        let allowed: &[&str] = match name {
            "sluicebox-files" | "sluicebox-processors" | "sluicebox-matching" | "sluicebox-store" => {
                &["sluicebox-model"]
            }
            "sluicebox" => &[
                "sluicebox-model",
                "sluicebox-files",
                "sluicebox-processors",
                "sluicebox-matching",
                "sluicebox-store",
            ],
            _ if plugin => &["sluicebox-sdk"],
            _ => &[],
        };
        let no_io = ["rocksdb", "wasmtime", "tokio"];
        for dependency in package["dependencies"].as_array().unwrap() {
            let for_tests = dependency["kind"] == "dev";
            let dependency = dependency["name"].as_str().unwrap();
            let ours = dependency.starts_with("sluicebox");
            assert!(!ours || allowed.contains(&dependency), "{name} must not depend on {dependency}");
            let pure = ["sluicebox-model", "sluicebox-matching"].contains(&name);
            assert!(
                !pure || !no_io.contains(&dependency),
                "{name} is pure and must not depend on {dependency}"
            );
            assert!(dependency != "rocksdb" || name == "sluicebox-store", "{name} must not know RocksDB");
            let reaches_out = dependency.starts_with("aws-") || dependency == "pgp";
            assert!(
                !reaches_out || for_tests || name == "sluicebox-files",
                "{name} must not know where files come from, or how they are encrypted"
            );
            let runs_wasm = dependency.starts_with("wasmtime");
            assert!(!runs_wasm || name == "sluicebox-processors", "{name} must not know wasmtime");
        }
        seen += 1;
    }
    assert!(seen >= 13, "{seen} packages");
}
