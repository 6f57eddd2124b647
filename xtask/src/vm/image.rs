//! The kernel out of its package, and the file system that it starts with.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::run::{output_of, step};

/// A kernel out of its package.
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    /// The bootable file.
    pub image: PathBuf,
    /// Where the package was unpacked.
    unpacked: PathBuf,
}

/// A test program, and which of its tests are run.
pub struct Test<'a> {
    pub name: &'a str,
    pub program: PathBuf,
    pub filter: Vec<String>,
}

/// Programs that the tests call.
const TOOLS: [&str; 6] = ["ip", "ethtool", "nft", "nsenter", "ping", "bpftool"];

/// Downloads and unpacks the newest kernel of `version` that Debian has for machines without hardware of their own, unless that
/// has been done.
pub fn kernel(directory: &Path, version: &str) -> Result<Kernel> {
    let pattern = format!("^linux-image-{}[.0-9a-z+-]*-cloud-amd64$", version.replace('.', "[.]"));
    let list = output_of("apt-cache", &["search", "--names-only", &pattern]).unwrap_or_default();
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    let package = names
        .max_by_key(|name| numbers(name))
        .with_context(|| format!("apt knows no kernel {version} (linux-image-{version}…-cloud-amd64); `apt-get update` brings the list, on Debian"))?;
    let release = package.trim_start_matches("linux-image-").to_owned();
    let unpacked = directory.join(&release);
    let image = unpacked.join("boot").join(format!("vmlinuz-{release}"));
    if !image.is_file() {
        step(
            "download the kernel",
            Command::new("apt-get")
                .args(["download", package])
                .current_dir(directory),
        )?;
        let downloaded = fs::read_dir(directory)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|e| e == "deb") && path.to_string_lossy().contains(&release))
            .with_context(|| format!("apt-get left no {package} in {}", directory.display()))?;
        step(
            "unpack it",
            Command::new("dpkg").arg("-x").arg(downloaded).arg(&unpacked),
        )?;
        step(
            "list its modules",
            Command::new(sbin("depmod")).arg("-b").arg(&unpacked).arg(&release),
        )?;
    }
    Ok(Kernel {
        release,
        image,
        unpacked,
    })
}

/// The numbers in a text, for comparing versions.
fn numbers(text: &str) -> Vec<u32> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// Packs the file system. For each test program its `init` prints `mark`, the name and the exit code.
pub fn build(
    directory: &Path,
    kernel: &Kernel,
    modules: &[&str],
    sipnat: &Path,
    tests: &[Test],
    mark: &str,
) -> Result<PathBuf> {
    let root = directory.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
    }
    for name in ["bin", "dev", "etc", "mods", "proc", "run", "sys", "tmp", "work"] {
        fs::create_dir_all(root.join(name))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    for name in ["cat", "insmod", "mount", "poweroff", "sh", "sync", "uname"] {
        symlink("busybox", root.join("bin").join(name))?;
    }
    for tool in TOOLS {
        let path = sbin(tool);
        if path.is_file() {
            install(&root, &path, &root.join("bin").join(tool))?;
        }
    }
    install(&root, sipnat, &root.join("work/sipnat"))?;
    for test in tests {
        install(&root, &test.program, &root.join("work").join(test.name))?;
    }
    for (number, module) in needed(kernel, modules)?.iter().enumerate() {
        let name = module.file_stem().context("a module has a name")?.to_string_lossy();
        unpacked(module, &root.join("mods").join(format!("{number:02}-{name}")))?;
    }
    let init = root.join("init");
    fs::write(&init, script(tests, mark))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    pack(&root, &directory.join("initrd.gz"))
}

/// Copies a program, without its debugging information, and the libraries that it is linked with.
fn install(root: &Path, from: &Path, to: &Path) -> Result<()> {
    let text = from.to_string_lossy();
    let strip = Command::new("strip")
        .arg("-o")
        .arg(to)
        .arg(from)
        .stderr(Stdio::null())
        .status();
    if !strip.is_ok_and(|status| status.success()) {
        fs::copy(from, to).with_context(|| format!("copy {text}"))?;
    }
    let libraries = output_of("ldd", &[&text]).unwrap_or_default();
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let place = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(place.parent().context("a library is in a directory")?)?;
        fs::copy(library, &place).with_context(|| format!("copy {library}"))?;
    }
    Ok(())
}

/// The files of these modules, each after those that it needs.
fn needed(kernel: &Kernel, modules: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for module in modules {
        let output = Command::new(sbin("modprobe"))
            .arg("-d")
            .arg(&kernel.unpacked)
            .args(["-S", &kernel.release, "--show-depends", module])
            .output()
            .context("cannot start modprobe")?;
        ensure!(
            output.status.success(),
            "the kernel {} has no module {module}",
            kernel.release
        );
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            // "builtin" for what needs no file.
            if let Some(path) = line.strip_prefix("insmod ").map(|path| PathBuf::from(path.trim()))
                && !files.contains(&path)
            {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// Copies a module, which may be packed.
fn unpacked(from: &Path, to: &Path) -> Result<()> {
    if from.extension().is_some_and(|extension| extension == "xz") {
        let status = Command::new("xz")
            .arg("-dc")
            .arg(from)
            .stdout(fs::File::create(to)?)
            .status()?;
        ensure!(status.success(), "xz cannot unpack {}", from.display());
        return Ok(());
    }
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    Ok(())
}

/// The first program.
fn script(tests: &[Test], mark: &str) -> String {
    let mut script = String::from(
        "#!/bin/sh\n\
         export PATH=/bin RUST_BACKTRACE=0 SIPNAT_BIN=/work/sipnat\n\
         mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev\n\
         mount -t tmpfs run /run; mount -t tmpfs tmp /tmp; mount -t bpf bpf /sys/fs/bpf\n\
         for module in /mods/*; do insmod $module; done\n\
         ip link set lo up\n\
         echo vm: Linux $(uname -r)\n",
    );
    for Test { name, filter, .. } in tests {
        script += &format!(
            "/work/{name} --test-threads 1 {}\necho \"{mark} {name} $?\"\n",
            filter.join(" ")
        );
    }
    script + "sync; poweroff -f\n"
}

fn pack(root: &Path, to: &Path) -> Result<PathBuf> {
    let line = "find . | cpio -o -H newc --quiet | gzip -1";
    let file = fs::File::create(to).with_context(|| format!("write {}", to.display()))?;
    let status = Command::new("sh")
        .args(["-c", line])
        .current_dir(root)
        .stdout(file)
        .status()?;
    if !status.success() {
        bail!("packing the image failed with {status}");
    }
    Ok(to.into())
}

/// Where a program is; Debian keeps some where only root's PATH looks.
fn sbin(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
        .unwrap_or_else(|| program.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_the_one_with_the_largest_numbers() {
        let names = [
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
        ];
        assert_eq!(names.iter().max_by_key(|name| numbers(name)), Some(&names[1]));
    }
}
