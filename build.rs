//! Compiles the wire protocol with protox: no `protoc`, no network.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/externalscaler.proto");
    let files = protox::compile(["externalscaler.proto"], ["proto"])?;

    // The reflection service and second clients read the same descriptor.
    let descriptor = PathBuf::from(env::var("OUT_DIR")?).join("externalscaler.bin");
    fs::write(descriptor, files.encode_to_vec())?;

    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
