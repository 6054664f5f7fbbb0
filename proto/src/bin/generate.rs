//! Generates `src/generated` from the `.proto` files, or with `--check` compares and names the file that differs.
#![forbid(unsafe_code)]

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail};

/// Extension of the contract's source files.
const PROTO_EXTENSION: &str = "proto";
/// File of the encoded descriptors, as `lib.rs` includes it.
const DESCRIPTOR_FILE: &str = "descriptors.bin";

fn main() -> Result<()> {
    let check = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--check" => true,
        other => bail!("unknown arguments {other:?}; usage: generate [--check]"),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = root.join("src/generated");
    let fresh = generate(root)?;
    if check {
        return compare(&target, &fresh);
    }
    fs::create_dir_all(&target)?;
    for name in read_names(&target)? {
        if !fresh.contains_key(&name) {
            fs::remove_file(target.join(&name)).with_context(|| format!("remove {name}"))?;
        }
    }
    for (name, content) in &fresh {
        fs::write(target.join(name), content).with_context(|| format!("write {name}"))?;
    }
    Ok(())
}

/// Compiles the contract under `root` to file names and contents.
fn generate(root: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let package = root.join("profiler/v1");
    let sources: Vec<_> = read_names(&package)?
        .into_iter()
        .map(|name| package.join(name))
        .filter(|path| path.extension().is_some_and(|extension| extension == PROTO_EXTENSION))
        .collect();
    let mut compiler = protox::Compiler::new([root])?;
    compiler
        .include_source_info(true)
        .include_imports(true)
        .open_files(&sources)?;
    let with_comments = compiler.file_descriptor_set();
    let scratch = tempfile::tempdir()?;
    tonic_prost_build::configure()
        .out_dir(scratch.path())
        .btree_map(".")
        .compile_fds(with_comments)
        .context("generate Rust code")?;

    // Reflection serves types, not comments.
    compiler.include_source_info(false);
    let mut files = BTreeMap::from([(DESCRIPTOR_FILE.to_owned(), compiler.encode_file_descriptor_set())]);
    for name in read_names(scratch.path())? {
        let content = fs::read(scratch.path().join(&name))?;
        files.insert(name, content);
    }
    Ok(files)
}

/// Fails with each file that is missing, stale or left over.
fn compare(target: &Path, fresh: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let mut differences = Vec::new();
    for (name, content) in fresh {
        match fs::read(target.join(name)) {
            Ok(committed) if &committed == content => {}
            Ok(_) => differences.push(format!("{name} differs from what the .proto files generate")),
            Err(error) => differences.push(format!("{name} cannot be read ({error})")),
        }
    }
    for name in read_names(target)? {
        if !fresh.contains_key(&name) {
            differences.push(format!("{name} is no longer generated"));
        }
    }
    if !differences.is_empty() {
        bail!(
            "{}: {}; run the generator without --check",
            target.display(),
            differences.join(", ")
        );
    }
    Ok(())
}

/// Names of the entries of a directory, sorted.
fn read_names(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
