//! A running SIP server as the rest of the daemon has it: what it needs is read and judged before anything is started or changed, and what
//! people ask of it goes to its thread.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read as _, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    thread::JoinHandle,
};

use anyhow::{Context as _, Result, bail};
use tokio::sync::oneshot;

use super::{
    flow::ListenerId,
    query::{Cursor, List, Page, Query, Reply, Setup},
    time::Time,
    transport::{self, Engine, Handle, Local, Options, Place, assign},
    users::Users,
};
use crate::{
    config::sip::{Domain, ListenAddress, Listener, Sip},
    media::{
        command::{DataPath, RelayId},
        policy::Policy,
    },
};

/// Entries that are looked at for one page of a list: some 100 µs of the server's time.
const LOOK_AT: usize = 500;

/// Finds the address that an interface has at the moment; an error if there is no such interface.
pub type Find<'a> = &'a dyn Fn(&str) -> Result<Option<IpAddr>>;

/// A running server. Shared by the main loop and the control socket.
pub struct Server {
    handle: Handle<Query>,
    setup: RwLock<Arc<Setup>>,
}

impl Setup {
    /// Reads the files that a configuration names, and finds the addresses of its interfaces. Listeners that stay keep the ids of `old`.
    ///
    /// # Errors
    /// With the file, line and remedy, or the interface that is not there. Nothing was changed.
    pub fn read(config: &Sip, old: &[Place], find: Find) -> Result<Setup> {
        let known: Vec<_> = old.iter().map(|place| (place.id, place.listener.clone())).collect();
        let ids = assign(&known, &config.listeners);
        let listeners = ids
            .into_iter()
            .zip(&config.listeners)
            .map(|(id, listener)| {
                Ok(Place {
                    id,
                    listener: listener.clone(),
                    found: found(listener, find)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Setup {
            config: Arc::new(config.clone()),
            listeners,
            users: users(config)?,
        })
    }

    /// Domains with a users file, and the users.
    pub fn domains(&self) -> impl Iterator<Item = (&Domain, &Users)> {
        let domains = self.config.domains.iter().zip(&self.users);
        domains.filter_map(|(domain, users)| Some((domain, users.as_deref()?)))
    }

    /// The address of record that people mean: the domain by its first name, an alias by its user. What is of no domain served here stays.
    pub fn canonical(&self, aor: &str) -> String {
        let Some((user, host)) = aor.rsplit_once('@') else {
            return aor.to_owned();
        };
        let Some(domain) = self.domain(host) else {
            return aor.to_owned();
        };
        let alias = domain.aliases.iter().find(|(alias, _)| alias == user);
        format!("{}@{}", alias.map_or(user, |(_, user)| user), domain.names[0])
    }

    /// The domain that a name means.
    pub fn domain(&self, name: &str) -> Option<&Domain> {
        let is_name = |known: &String| known.eq_ignore_ascii_case(name);
        self.config
            .domains
            .iter()
            .find(|domain| domain.names.iter().any(is_name))
    }

    /// The listeners as the core wants them.
    pub fn places(&self) -> impl Iterator<Item = (ListenerId, Listener, Option<IpAddr>)> {
        self.listeners
            .iter()
            .map(|place| (place.id, place.listener.clone(), place.found))
    }

    /// What the transport has to know.
    pub fn options(&self) -> Options {
        Options {
            listeners: self.listeners.clone(),
            limits: self.config.limits.clone(),
            tls: self.config.tls.clone(),
            dns: self.config.dns.clone(),
        }
    }
}

impl Server {
    /// Opens the listeners and starts the thread of the core that `make` makes.
    ///
    /// # Errors
    /// If a listener cannot be opened, or from `make`; nothing runs then.
    pub fn start<E, F>(setup: Setup, make: F) -> Result<(Arc<Server>, JoinHandle<()>)>
    where
        E: Engine<Call = Query>,
        F: FnOnce(Setup, &[Local], Time) -> Result<E> + Send + 'static,
    {
        let (options, for_core) = (setup.options(), setup.clone());
        let running = transport::start(options, move |locals, now| make(for_core, locals, now))?;
        let server = Server {
            handle: running.handle,
            setup: RwLock::new(Arc::new(setup)),
        };
        Ok((Arc::new(server), running.thread))
    }

    /// What is in force.
    pub fn setup(&self) -> Arc<Setup> {
        self.setup.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The transport, for what it answers by itself.
    pub fn handle(&self) -> &Handle<Query> {
        &self.handle
    }

    /// The first half of a reload, which can fail: certificates are read and new listeners opened. [`Server::configure`] must follow, or this
    /// again with [`Server::setup`].
    ///
    /// # Errors
    /// If one of them cannot be used; everything is as it was then.
    pub async fn listen(&self, setup: &Setup) -> Result<()> {
        self.handle.reload(setup.options()).await
    }

    /// The second half of a reload: the core takes over.
    pub async fn configure(&self, setup: Setup) -> Result<()> {
        *self.setup.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(setup.clone());
        let (reply, answer) = oneshot::channel();
        self.handle.call(Query::Configure(Box::new(setup), reply)).await?;
        answer
            .await
            .context("the SIP server did not take over its configuration")
    }

    /// Has the media of calls go through a data path where the policy says so.
    ///
    /// # Errors
    /// If the server has ended.
    pub async fn anchor_media(&self, policy: Policy, path: Box<dyn DataPath>) -> Result<()> {
        self.handle.call(Query::AnchorMedia(policy, path)).await
    }

    /// Ends the calls whose media is silent; see [`Query::SilentMedia`]. Says which streams belong to no call.
    ///
    /// # Errors
    /// If the server has ended.
    pub async fn end_silent(&self, silent: Vec<RelayId>) -> Result<Vec<RelayId>> {
        let (reply, answer) = oneshot::channel();
        self.handle.call(Query::SilentMedia(silent, reply)).await?;
        answer.await.context("the SIP server has ended; its log says why")
    }

    /// Takes another policy for media; see [`Server::anchor_media`].
    ///
    /// # Errors
    /// If the server has ended.
    pub async fn media_policy(&self, policy: Policy) -> Result<()> {
        self.handle.call(Query::MediaPolicy(policy)).await
    }

    /// Ends the streams of relays whose external address is not ours any more. Gives those that no call knows.
    ///
    /// # Errors
    /// If the server has ended.
    pub async fn media_stranded(&self, relays: Vec<RelayId>) -> Result<Vec<RelayId>> {
        let (reply, answer) = oneshot::channel();
        self.handle.call(Query::MediaStranded(relays, reply)).await?;
        answer.await.context("the SIP server has ended; its log says why")
    }

    /// Tells the server of listeners whose interface has another address now; says which have moved.
    pub async fn follow(&self, find: Find<'_>) -> Vec<(Listener, Option<IpAddr>)> {
        let mut setup = Setup::clone(&self.setup());
        let mut moved = Vec::new();
        for place in &mut setup.listeners {
            // An interface that is gone has no address.
            let found = found(&place.listener, find).unwrap_or(None);
            if found == place.found {
                continue;
            }
            place.found = found;
            moved.push((place.listener.clone(), found));
            if let Err(error) = self.handle.moved(place.id, found).await {
                tracing::error!("{error:#}; the listener is silent until its interface has another address");
            }
        }
        if !moved.is_empty() {
            *self.setup.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(setup);
        }
        moved
    }

    /// Has the thread end.
    pub async fn stop(&self) {
        // An error means that it has ended already.
        let _ = self.handle.stop().await;
    }

    /// Asks the core and waits for its answer. Only on threads for blocking work.
    ///
    /// # Errors
    /// If the server has ended.
    pub fn ask<T>(&self, query: impl FnOnce(Reply<T>) -> Query) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        runtime.block_on(async {
            self.handle.call(query(reply)).await?;
            answer.await.context("the SIP server has ended; its log says why")
        })
    }

    /// Reads a list page by page and hands each record to `each` until that breaks. Only on threads for blocking work.
    ///
    /// # Errors
    /// If the server has ended.
    pub fn list<F: Clone, R>(
        &self,
        filter: &F,
        query: impl Fn(List<F, R>) -> Query,
        each: crate::control::Each<R>,
    ) -> Result<()> {
        let mut from = Cursor::START;
        loop {
            let Page { records, next } = self.ask(|reply| {
                query(List {
                    filter: filter.clone(),
                    from,
                    look_at: LOOK_AT,
                    reply,
                })
            })?;
            if records.into_iter().any(|record| each(record).is_break()) {
                return Ok(());
            }
            match next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }
}

fn found(listener: &Listener, find: Find) -> Result<Option<IpAddr>> {
    match &listener.address {
        ListenAddress::Ip(_) => Ok(None),
        ListenAddress::Interface(name) => find(name).with_context(|| {
            format!(
                "a [[sip.listen]] with transport = \"{}\" cannot listen",
                listener.transport
            )
        }),
    }
}

/// The users of each domain; a file that several domains name is read once.
fn users(config: &Sip) -> Result<Vec<Option<Arc<Users>>>> {
    let mut files: HashMap<&PathBuf, Arc<Users>> = HashMap::new();
    config
        .domains
        .iter()
        .map(|domain| {
            let Some(path) = &domain.users else { return Ok(None) };
            let users = match files.get(path) {
                Some(users) => users.clone(),
                None => {
                    let users = Arc::new(Users::load(path)?);
                    files.insert(path, users.clone());
                    users
                }
            };
            if users.count(&domain.names[0]) == 0 {
                tracing::warn!(
                    "{} has no users of {}, so nobody can register there; `sipnat user add` makes some",
                    path.display(),
                    domain.names[0]
                );
            }
            Ok(Some(users))
        })
        .collect()
}

/// Reads the secret for tokens and nonces, or makes one.
///
/// # Errors
/// With the file, what is wrong with it, and the remedy.
pub fn secret(path: &Path) -> Result<[u8; 32]> {
    let shown = path.display();
    match fs::File::open(path) {
        Ok(file) => {
            let mut text = String::new();
            file.take(256).read_to_string(&mut text).with_context(|| {
                format!("cannot read the secret {shown}; check it, or remove it and a new one is made")
            })?;
            match from_hex(text.trim()) {
                Some(secret) => Ok(secret),
                None => bail!(
                    "{shown} is no secret of sipnat (64 hexadecimal digits); name another sip.secret, or remove it"
                ),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut secret = [0; 32];
            getrandom::fill(&mut secret)
                .map_err(|error| anyhow::anyhow!("the system gives no random numbers for a secret: {error}"))?;
            let text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
            make_directory(path)?;
            fs::File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .and_then(|mut file| {
                    writeln!(file, "{text}")?;
                    file.sync_all()
                })
                .with_context(|| {
                    format!("cannot make the secret {shown}; check its directory or name another sip.secret")
                })?;
            Ok(secret)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read the secret {shown}; check its permissions")),
    }
}

/// Makes the directory that a file is to be in, for nobody else.
///
/// # Errors
/// With the directory and the remedy.
pub fn make_directory(path: &Path) -> Result<()> {
    let Some(directory) = path.parent().filter(|directory| !directory.exists()) else {
        return Ok(());
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(directory)
        .with_context(|| {
            format!(
                "cannot make the directory {}; make it, or name other files in [sip]",
                directory.display()
            )
        })
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut secret = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in secret.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(secret)
}

#[cfg(test)]
mod tests;
