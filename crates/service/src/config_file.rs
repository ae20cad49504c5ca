//! Finding and reading `rowcast.toml`.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use protocol::config::Config;

use crate::SettingsError;

/// The file that is read, if it exists, when none is named.
pub const DEFAULT_FILE: &str = "rowcast.toml";

/// Reads the settings file: the one named, which must exist, or else [`DEFAULT_FILE`] in the
/// working directory, or else the defaults. Says which file it was.
pub fn load(named: Option<&Path>) -> Result<(Config, Option<PathBuf>), SettingsError> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    let wrong = |problem: String| SettingsError::File { path: path.into(), problem };
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let config = Config::parse(&text).map_err(|e| wrong(e.to_string()))?;
            Ok((config, Some(path.into())))
        }
        Err(e) if e.kind() == ErrorKind::NotFound && named.is_none() => Ok((Config::default(), None)),
        Err(e) => Err(wrong(format!("cannot be read: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_must_exist_and_its_errors_name_it() {
        let missing = load(Some(Path::new("/nowhere/rowcast.toml"))).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/rowcast.toml") && missing.contains("cannot be read"), "{missing}");
        // This crate's own folder has none.
        assert_eq!(load(None).unwrap(), (Config::default(), None));
        let cargo = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let wrong = load(Some(&cargo)).unwrap_err().to_string();
        assert!(wrong.contains("Cargo.toml") && wrong.contains("unknown field"), "{wrong}");
    }
}
