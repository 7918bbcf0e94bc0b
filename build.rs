//! Compiles the wire protocol with protox: no `protoc`, no network.

use std::{env, error::Error, fs, path::PathBuf, process::Command};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/externalscaler.proto");
    let files = protox::compile(["externalscaler.proto"], ["proto"])?;

    // The reflection service and second clients read the same descriptor.
    let descriptor = PathBuf::from(env::var("OUT_DIR")?).join("externalscaler.bin");
    fs::write(descriptor, files.encode_to_vec())?;

    // The benchmarks' baseline is tonic as it comes.
    let baseline = PathBuf::from(env::var("OUT_DIR")?).join("baseline");
    fs::create_dir_all(&baseline)?;
    tonic_prost_build::configure().build_client(false).out_dir(baseline).compile_fds(files.clone())?;
    tonic_prost_build::configure().codec_path("crate::proto::codec::SizedProstCodec").compile_fds(files)?;

    // Grows with every commit; a path that does not exist would make each build run this again.
    let log = output("git", &["rev-parse", "--git-path", "logs/HEAD"]);
    if let Some(log) = log.filter(|path| fs::exists(path).unwrap_or(false)) {
        println!("cargo:rerun-if-changed={log}");
    }
    println!("cargo:rerun-if-env-changed=CLAPOMETER_COMMIT");
    let commit = env::var("CLAPOMETER_COMMIT").ok().or_else(|| output("git", &["rev-parse", "--short=12", "HEAD"]));
    let rustc = output(&env::var("RUSTC")?, &["--version"]);
    println!("cargo:rustc-env=CLAPOMETER_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    println!("cargo:rustc-env=CLAPOMETER_RUSTC={}", rustc.as_deref().unwrap_or("unknown"));
    if can_pack_relocations()? {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    Ok(())
}

/// Returns whether an executable may have the addresses that its loader adjusts as a bitmap, instead of 24 bytes each:
/// the loader of glibc reads that since 2.36. What is static, or built for another machine than this, has them as ever.
fn can_pack_relocations() -> Result<bool, env::VarError> {
    let is_native = env::var("HOST")? == env::var("TARGET")?;
    let is_static = env::var("CARGO_CFG_TARGET_FEATURE").is_ok_and(|features| features.contains("crt-static"));
    let is_glibc = env::var("CARGO_CFG_TARGET_ENV")? == "gnu";
    let glibc = output("getconf", &["GNU_LIBC_VERSION"]);
    let minor = glibc.and_then(|text| text.strip_prefix("glibc 2.")?.parse::<u32>().ok());
    Ok(is_native && is_glibc && !is_static && minor.is_some_and(|minor| minor >= 36))
}

/// What a command prints, if it runs: a build from a tarball has no git.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
