//! PostgreSQL in other versions than the system's, from npm packages that carry the binaries.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use serde::Deserialize;

/// The versions that tests/postgres/package.json names, besides the system's.
pub const VERSIONS: [u32; 4] = [14, 16, 17, 18];

/// A link that npm cannot carry; both paths are relative to the package.
#[derive(Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

/// The folder with initdb and postgres of a version. It is copied out of the package, once on this
/// machine: PostgreSQL's user may not be allowed into the repository.
pub fn programs(major: u32) -> anyhow::Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("postgres/node_modules/postgres-{major}"));
    let about = fs::read_to_string(package.join("package.json"))
        .with_context(|| format!("PostgreSQL {major} is missing: npm ci --prefix tests/postgres --ignore-scripts"))?;
    let about: serde_json::Value = serde_json::from_str(&about)?;
    let uid = fs::metadata("/proc/self")?.uid();
    let name = format!("rowcast-test-postgres-{}-{uid}", about["version"].as_str().unwrap_or_default());
    let copy = std::env::temp_dir().join(name);
    if !copy.exists() {
        // Made aside and moved into place: another process may make it at the same time.
        let aside = tempfile::Builder::new()
            .prefix("rowcast-postgres-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()?;
        let native = aside.path().join("native");
        let copied = Command::new("cp").arg("-a").arg(package.join("native")).arg(&native).status()?;
        ensure!(copied.success(), "{} cannot be copied", package.display());
        complete(aside.path())?;
        match fs::rename(native, &copy) {
            Err(error) if !copy.exists() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(copy.join("bin"))
}

fn complete(package: &Path) -> anyhow::Result<()> {
    let links: Vec<Link> = serde_json::from_slice(&fs::read(package.join("native/pg-symlinks.json"))?)?;
    for Link { source, target } in links {
        // A library and its other name are in one folder.
        ensure!(source.parent() == target.parent(), "{} is elsewhere", source.display());
        symlink(source.file_name().context("no name")?, package.join(target))?;
    }
    for program in ["initdb", "postgres"] {
        fs::set_permissions(package.join("native/bin").join(program), fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
