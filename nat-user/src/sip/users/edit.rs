//! Editing a users file without touching what others wrote there: comments and foreign lines stay as they are.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown},
    path::Path,
};

use super::{ALGORITHMS, Line, Users, UsersError, What, check_names, ha1, name, read};

/// The text of a users file, known to be valid.
#[derive(Debug)]
pub struct UsersText {
    text: String,
    file: String,
}

/// How a password is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secret {
    /// HA1 for each algorithm: whoever reads the file can use it, but does not know the password.
    Hashed,
    /// As it is.
    Plain,
}

impl UsersText {
    /// Reads a file; one that does not exist is empty.
    ///
    /// # Errors
    /// If it cannot be read or has a line that is wrong.
    pub fn load(path: &Path) -> Result<UsersText, UsersError> {
        let text = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            _ => read(path)?,
        };
        UsersText::parse(text, &path.display().to_string())
    }

    /// A file's text.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(text: String, file: &str) -> Result<UsersText, UsersError> {
        Users::parse(&text, file)?;
        Ok(UsersText {
            text,
            file: file.to_owned(),
        })
    }

    /// The text as it is now.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The users in it.
    pub fn users(&self) -> Users {
        // It was valid when it was read, and what was added since is checked by `set`.
        Users::parse(&self.text, &self.file).unwrap_or_default()
    }

    /// The one realm of the file, if it has one only.
    pub fn only_realm(&self) -> Option<String> {
        let users = self.users();
        let mut realms = users.realms.keys();
        realms
            .next()
            .filter(|_| realms.next().is_none())
            .map(ToString::to_string)
    }

    /// Gives a user a password, and limits if any are given; others' lines and the user's own limits (without new ones) stay.
    /// Says whether the user was there before.
    ///
    /// # Errors
    /// If user, realm or password cannot be written to a users file.
    pub fn set(
        &mut self,
        user: &str,
        realm: &str,
        password: &str,
        secret: Secret,
        calls: Option<u32>,
        allow: &[String],
    ) -> Result<bool, UsersError> {
        let fail = |(message, remedy)| UsersError {
            file: self.file.clone(),
            line: None,
            message,
            remedy,
        };
        check_names(user, realm).map_err(fail)?;
        if password.is_empty() || password.contains(|c: char| c.is_control()) {
            return Err(fail((
                "the password is empty or has control characters".into(),
                "choose another".into(),
            )));
        }
        if allow.iter().any(|prefix| {
            prefix.is_empty() || prefix.contains(|c: char| c.is_whitespace() || c.is_control() || c == ',')
        }) {
            return Err(fail((
                "a prefix that may be called is empty or has blanks or commas in it".into(),
                "write the first digits of the numbers, like +49".into(),
            )));
        }
        let limits = calls.is_some() || !allow.is_empty();
        let mut changed = UsersText {
            text: self.text.clone(),
            file: self.file.clone(),
        };
        let existed = changed.drop_lines(user, realm, limits);
        let mut lines = String::new();
        match secret {
            Secret::Plain => push(&mut lines, user, realm, "plain", password),
            Secret::Hashed => {
                for algorithm in ALGORITHMS {
                    push(
                        &mut lines,
                        user,
                        realm,
                        name(algorithm),
                        &ha1(algorithm, user, realm, password),
                    );
                }
            }
        }
        if limits {
            let calls = calls.map(|calls| format!("calls={calls}"));
            let allow = (!allow.is_empty()).then(|| format!("allow={}", allow.join(",")));
            let limits: Vec<String> = calls.into_iter().chain(allow).collect();
            push(&mut lines, user, realm, "limits", &limits.join(" "));
        }
        if !changed.text.is_empty() && !changed.text.ends_with('\n') {
            changed.text.push('\n');
        }
        changed.text.push_str(&lines);
        Users::parse(&changed.text, &changed.file)?;
        *self = changed;
        Ok(existed)
    }

    /// Removes a user; says whether there was one.
    pub fn remove(&mut self, user: &str, realm: &str) -> bool {
        self.drop_lines(user, realm, true)
    }

    fn drop_lines(&mut self, user: &str, realm: &str, limits: bool) -> bool {
        let before = self.text.len();
        let stays = |line: &&str| match Line::parse(line.trim_end_matches(['\r', '\n'])) {
            Ok(Some(line)) if line.user == user && line.realm == realm => {
                !limits && matches!(line.what, What::Limits { .. })
            }
            _ => true,
        };
        self.text = self.text.split_inclusive('\n').filter(stays).collect();
        self.text.len() != before
    }

    /// Replaces the file in one step: a reader finds the old text or the new one. Mode and owner stay; a new file is for its owner only.
    ///
    /// # Errors
    /// From the file system; the old file is untouched then.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        // A link is followed, or it would be replaced by a file.
        let path = match fs::canonicalize(path) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(error),
        };
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let new = path.with_file_name(name);
        let write = || {
            let mut file = fs::File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(self.text.as_bytes())?;
            if let Ok(old) = fs::metadata(&path) {
                chown(&new, Some(old.uid()), Some(old.gid()))?;
                file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
            }
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        let written = write();
        if written.is_err() {
            // It may not be there; nothing else can be done about it.
            let _ = fs::remove_file(&new);
        }
        written
    }
}

fn push(lines: &mut String, user: &str, realm: &str, what: &str, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(lines, "{user}:{realm}:{what}:{text}");
}
