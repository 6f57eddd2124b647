//! The Unix socket: one daemon per path, nobody but root and the daemon's own user.

use std::{
    fs::{self, File, TryLockError},
    io::ErrorKind,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use tokio::net::UnixListener;

/// The longest path that fits `sockaddr_un` with its final zero.
const MAX_PATH: usize = 107;

/// The bound control socket. Dropping it removes the socket, unless another one has taken the path.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: UnixListener,
    path: PathBuf,
    inode: u64,
    /// The user that this process runs as.
    pub(super) owner: u32,
    /// Locked while this process owns the path: two daemons that start at once cannot both think the socket stale.
    _lock: File,
}

impl Listener {
    /// Creates the socket at `path`, mode 0600, and its directory if missing. Needs a tokio runtime.
    ///
    /// # Errors
    /// If another daemon owns or answers on the path, if something that is no socket is there, or on system errors.
    pub fn bind(path: &Path) -> Result<Listener> {
        let shown = path.display();
        if path.as_os_str().len() > MAX_PATH {
            bail!(
                "the control socket's path {shown} is longer than {MAX_PATH} bytes; choose a shorter one with --socket"
            );
        }
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            fs::create_dir_all(directory).with_context(|| {
                format!(
                    "cannot create {} for the control socket; choose another with --socket",
                    directory.display()
                )
            })?;
        }
        let lock = lock(path)?;
        remove_stale(path)?;
        let socket = UnixListener::bind(path).with_context(|| {
            format!("cannot create the control socket {shown}; check the directory or choose another with --socket")
        })?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .with_context(|| format!("cannot protect the control socket {shown}"))?;
        let file = fs::symlink_metadata(path)
            .with_context(|| format!("the control socket {shown} disappeared while it was made; start again"))?;
        Ok(Listener {
            socket,
            path: path.to_owned(),
            inode: file.ino(),
            owner: file.uid(),
            _lock: lock,
        })
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            // Nothing to be done about a failure; the next start removes a stale socket.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn second_instance(path: &Path) -> anyhow::Error {
    anyhow::anyhow!(
        "another sipnat is running on {}; stop it, or start this one with another --socket (and --pin-dir)",
        path.display()
    )
}

fn lock(path: &Path) -> Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&name)
        .with_context(|| format!("cannot open {}; run as root or choose another --socket", name.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(second_instance(path)),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", name.display())),
    }
}

/// Removes a socket that nobody answers on.
fn remove_stale(path: &Path) -> Result<()> {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {shown}")),
        Ok(file) if !file.file_type().is_socket() => {
            bail!("{shown} exists and is no socket; remove it or choose another with --socket")
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(second_instance(path)),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).with_context(|| format!("cannot remove the stale socket {shown}"))
        }
        Err(error) => {
            Err(error).with_context(|| format!("cannot tell whether anybody answers on {shown}; remove it if not"))
        }
    }
}
