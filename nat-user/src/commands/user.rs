//! `sipnat user`: edits a users file, without a daemon.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write},
    path::Path,
};

use anyhow::{Context as _, Result, bail};

use super::print_done;
use crate::{
    cli::{AddUser, OneUser, User},
    client::ClientError,
    output::{self, JsonArray, sip as tables},
    records::UserRecord,
    sip::users::{self, Secret, UserEntry, Users, UsersText},
};

/// Does what was asked.
pub fn user(out: &mut impl Write, wanted: User, json: bool) -> Result<()> {
    match wanted {
        User::Add(wanted) => add(out, wanted, json),
        User::Remove(OneUser { file, user }) => {
            let mut text = UsersText::load(&file)?;
            let (user, realm) = split(&user, &text)?;
            if !text.remove(&user, &realm) {
                return Err(ClientError::not_found(format!("there is no {user}@{realm} in {}", file.display())).into());
            }
            save(&text, &file)?;
            print_done(
                out,
                format!("removed {user}@{realm}; `sipnat reload` puts it in force"),
                json,
            )
        }
        User::List { file } => list(out, &Users::load(&file)?, json),
    }
}

fn add(out: &mut impl Write, wanted: AddUser, json: bool) -> Result<()> {
    let AddUser {
        who: OneUser { file, user },
        plain,
        password,
        calls,
        allow,
    } = wanted;
    let mut text = UsersText::load(&file)?;
    let (user, realm) = split(&user, &text)?;
    let password = match password {
        Some(password) => password,
        None => ask(&user, &realm)?,
    };
    let secret = if plain { Secret::Plain } else { Secret::Hashed };
    let existed = text.set(&user, &realm, &password, secret, calls, &allow)?;
    save(&text, &file)?;
    let what = if existed { "changed" } else { "added" };
    print_done(
        out,
        format!("{what} {user}@{realm}; `sipnat reload` puts it in force"),
        json,
    )
}

/// User and realm; the realm may be left out where there is one only.
fn split(user: &str, text: &UsersText) -> Result<(String, String)> {
    if let Some((user, realm)) = user.rsplit_once('@') {
        return Ok((user.to_owned(), realm.to_ascii_lowercase()));
    }
    match text.only_realm() {
        Some(realm) => Ok((user.to_owned(), realm)),
        None => bail!("`{user}` names no domain, and the file has none or several; write it like {user}@example.com"),
    }
}

/// Twice from a terminal, without showing it; one line from anything else.
fn ask(user: &str, realm: &str) -> Result<String> {
    if io::stdin().is_terminal() {
        let prompt =
            |text: String| rpassword::prompt_password(text).context("cannot read the password from the terminal");
        let password = prompt(format!("Password of {user}@{realm}: "))?;
        if prompt("Once more: ".into())? != password {
            bail!("the two passwords differ; try again");
        }
        return Ok(password);
    }
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .context("cannot read the password from standard input")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn save(text: &UsersText, path: &Path) -> Result<()> {
    text.save(path).with_context(|| {
        format!(
            "cannot write {}; check the directory and its permissions, nothing was changed",
            path.display()
        )
    })
}

fn list(out: &mut impl Write, users: &Users, json: bool) -> Result<()> {
    let mut records: Vec<UserRecord> = users.iter().map(record).collect();
    records.sort_by(|a, b| (&a.domain, &a.user).cmp(&(&b.domain, &b.user)));
    if json {
        let mut array = JsonArray::begin(out)?;
        for record in &records {
            array.push(&serde_json::to_string(record)?)?;
        }
        array.end()?;
    } else {
        output::print(out, &tables::users(&records))?;
    }
    Ok(())
}

/// A user as people see it.
pub fn record((realm, user, entry): (&str, &str, &UserEntry)) -> UserRecord {
    UserRecord {
        user: user.to_owned(),
        domain: realm.to_owned(),
        algorithms: entry
            .algorithms()
            .map(|algorithm| users::name(algorithm).to_owned())
            .collect(),
        calls: entry.calls,
        allow: entry.allow.iter().map(ToString::to_string).collect(),
    }
}
