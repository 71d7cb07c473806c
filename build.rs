//! Generates the gRPC code of `proto/` with protox: no protoc is needed on the machine.

use std::path::PathBuf;
use std::{env, error::Error, fs};

const PROTO_ROOT: &str = "proto";
const PROTO_PACKAGE: &str = "proto/fuota/v1";

/// Messages that hold keys. `src/proto.rs` gives them a `Debug` that does not print them.
const SECRET_MESSAGES: [&str; 4] = [
    ".fuota.v1.RootKeys",
    ".fuota.v1.DerivedKeys",
    ".fuota.v1.OtaaActivation",
    ".fuota.v1.AbpActivation",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO_ROOT}");
    println!("cargo::rerun-if-changed=src/store/migrations");

    let mut files = Vec::new();
    for entry in fs::read_dir(PROTO_PACKAGE)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.push(path);
        }
    }
    files.sort();

    let mut compiler = protox::Compiler::new([PROTO_ROOT])?;
    compiler
        .include_source_info(true)
        .include_imports(true)
        .open_files(files)?;

    // The generator writes no descriptor set when it is given one, so it is written here.
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out_dir.join("fuota_descriptor.bin"),
        compiler.encode_file_descriptor_set(),
    )?;

    tonic_prost_build::configure()
        .btree_map(".")
        .bytes(".")
        .skip_debug(SECRET_MESSAGES)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
