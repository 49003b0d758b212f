// SPDX-License-Identifier: Apache-2.0
//! One test, one [`Bundle`]: a temporary directory with a rootfs that holds the probe, a configuration to edit, a
//! state root and an id that nobody else has. Dropping it deletes the container by force and fails the test if a
//! process, cgroup, mount or state directory is left.

pub mod config;
pub mod host;
pub mod leaks;
pub mod runtime;
pub mod skip;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use runtime::{Call, Flavor, Layer, Output, Running, flavor};

const ROOTFS_DIRS: [&str; 6] = ["rootfs/tmp", "rootfs/proc", "rootfs/dev", "rootfs/sys", "rootfs/run", "rootfs/mnt"];

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A bundle and the container made from it.
pub struct Bundle {
    pub dir: PathBuf,
    pub id: String,
    pub config: Value,
    pub layer: Layer,
    raw: Option<Vec<u8>>,
    stdout: std::cell::RefCell<Option<PathBuf>>,
}

impl Bundle {
    /// A bundle with the probe in its rootfs and the configuration of [`config::base`].
    pub fn new() -> Self {
        let id = format!("{}-{:04}", runtime::run_name(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let dir = runtime::base().join(&id);
        let rootfs = dir.join("rootfs");
        // The directories that every image has, so that a mapped root who does not own the rootfs can mount there.
        for sub in ["", "rootfs", "state"].into_iter().chain(ROOTFS_DIRS) {
            fs::create_dir(dir.join(sub)).unwrap();
            fs::set_permissions(dir.join(sub), PermissionsExt::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(rootfs.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
        fs::hard_link(runtime::base().join("probe"), rootfs.join("probe")).unwrap();
        let config = config::base(&format!("/{id}"));
        Self { dir, id, config, layer: Layer::usual(), raw: None, stdout: std::cell::RefCell::new(None) }
    }

    /// As [`Bundle::new`], in the pure cgroup2 layer.
    pub fn v2() -> Self {
        let mut bundle = Self::new();
        bundle.layer = Layer::V2;
        bundle
    }

    /// Starts from another configuration: one of `integration/bundles`.
    pub fn with_config(mut self, text: &str) -> Self {
        self.config = serde_json::from_str(text).unwrap();
        self.config["linux"]["cgroupsPath"] = json!(format!("/{}", self.id));
        self
    }

    /// Writes these bytes as config.json instead of the edited configuration.
    pub fn raw_config(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.raw = Some(bytes.into());
        self
    }

    /// Sets the value at a JSON pointer, making objects on the way.
    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        config::set(&mut self.config, pointer, value.into());
        self
    }

    /// Removes the member at a JSON pointer.
    pub fn remove(mut self, pointer: &str) -> Self {
        config::remove(&mut self.config, pointer);
        self
    }

    /// Appends to the array at a JSON pointer, making it if needed.
    pub fn push(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        config::push(&mut self.config, pointer, value.into());
        self
    }

    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.config["process"]["args"] = args.into_iter().map(Into::into).map(Value::String).collect();
        self
    }

    /// Adds a user namespace that maps `size` ids from `container` to `host`, and gives the rootfs to `host`.
    pub fn userns(self, container: u32, host: u32, size: u32) -> Self {
        for dir in ["rootfs", "rootfs/tmp"] {
            chown(self.dir.join(dir), Some(host), Some(host)).unwrap();
        }
        let map = json!([{"containerID": container, "hostID": host, "size": size}]);
        self.push("/linux/namespaces", json!({"type": "user"}))
            .set("/linux/uidMappings", map.clone())
            .set("/linux/gidMappings", map)
    }

    /// Adds a mount at the end of the list.
    pub fn mount(self, destination: &str, kind: &str, source: &str, options: &[&str]) -> Self {
        let mut mount = json!({"destination": destination, "source": source, "options": options});
        if !kind.is_empty() {
            mount["type"] = json!(kind);
        }
        self.push("/mounts", mount)
    }

    /// Drops a namespace from the configuration, so that the container stays in the caller's.
    pub fn without_ns(mut self, kind: &str) -> Self {
        self.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|ns| ns["type"] != kind);
        self
    }

    /// Makes the container join the namespace at `path` instead of making one.
    pub fn join_ns(self, kind: &str, path: &str) -> Self {
        self.without_ns(kind).push("/linux/namespaces", json!({"type": kind, "path": path}))
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    pub fn state_root(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Writes a file below the rootfs, with its parents.
    pub fn file(self, path: &str, content: &str, mode: u32) -> Self {
        let path = self.rootfs().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        self
    }

    pub fn dir_in_rootfs(self, path: &str, mode: u32) -> Self {
        let path = self.rootfs().join(path.trim_start_matches('/'));
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        self
    }

    pub fn link_in_rootfs(self, path: &str, target: &str) -> Self {
        let path = self.rootfs().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    /// A directory outside the rootfs that a hostile image would like to reach, with one file in it.
    pub fn canary(&self) -> PathBuf {
        let canary = self.dir.join("canary");
        if !canary.exists() {
            fs::create_dir(&canary).unwrap();
            fs::write(canary.join("keep"), "untouched").unwrap();
        }
        canary
    }

    /// Fails the test when anything was made, removed or changed in the canary directory.
    #[track_caller]
    pub fn check_canary(&self) {
        let names: Vec<_> = fs::read_dir(self.canary()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["keep"], "the container or the runtime wrote to a host directory");
        assert_eq!(fs::read_to_string(self.canary().join("keep")).unwrap(), "untouched");
    }

    /// Writes config.json as it stands.
    pub fn write_config(&self) {
        let bytes = self.raw.clone().unwrap_or_else(|| serde_json::to_vec_pretty(&self.config).unwrap());
        fs::write(self.dir.join("config.json"), bytes).unwrap();
    }

    /// A call of the runtime with `--root` of this bundle.
    pub fn call<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Call {
        let args = args.into_iter().map(|a| a.as_ref().to_string());
        Call::new(&runtime::program(), &self.dir, self.layer)
            .env("ORLOP_IT", &self.id)
            .args(["--root".to_string(), self.state_root().to_str().unwrap().to_string()].into_iter().chain(args))
    }

    /// `create` or `run` with this bundle, `--pid-file` and more options. The configuration is written first.
    pub fn call_new(&self, command: &str, options: &[&str]) -> Call {
        self.write_config();
        let (dir, pid_file) = (self.dir.to_str().unwrap(), self.pid_file());
        let mut args = vec![command, "--bundle", dir, "--pid-file", pid_file.to_str().unwrap()];
        args.extend(options);
        args.push(&self.id);
        self.call(args)
    }

    pub fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    /// The pid that the runtime recorded for the container's init.
    pub fn pid(&self) -> i32 {
        fs::read_to_string(self.pid_file()).unwrap().trim().parse().unwrap()
    }

    /// Runs the container in the foreground with these arguments of its process.
    #[track_caller]
    pub fn run<S: Into<String>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.try_run(args)
    }

    /// As `run`; the name says that the caller expects a failure.
    #[track_caller]
    pub fn try_run<S: Into<String>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        let args: Value = args.into_iter().map(Into::into).map(Value::String).collect();
        let mut copy = self.config.clone();
        copy["process"]["args"] = args;
        let bytes = self.raw.clone().unwrap_or_else(|| serde_json::to_vec_pretty(&copy).unwrap());
        fs::write(self.dir.join("config.json"), bytes).unwrap();
        let dir = self.dir.to_str().unwrap();
        self.call(["run", "--bundle", dir, "--pid-file", self.pid_file().to_str().unwrap(), &self.id]).output()
    }

    /// The probe's report from inside.
    #[track_caller]
    pub fn report(&self) -> Value {
        self.run(["/probe"]).json()
    }

    /// Creates the container or fails the test.
    #[track_caller]
    pub fn create(&self) -> Output {
        self.try_create(&[]).ok()
    }

    /// Tries to create it, with more options.
    #[track_caller]
    pub fn try_create(&self, options: &[&str]) -> Output {
        let running = self.call_new("create", options).start();
        *self.stdout.borrow_mut() = Some(running.stdout_path().to_path_buf());
        running.output()
    }

    #[track_caller]
    pub fn start(&self) -> Output {
        self.command("start").ok()
    }

    /// A command that takes only the id.
    #[track_caller]
    pub fn command(&self, name: &str) -> Output {
        self.call([name, &self.id]).output()
    }

    #[track_caller]
    pub fn kill(&self, signal: &str) -> Output {
        self.call(["kill", &self.id, signal]).output()
    }

    #[track_caller]
    pub fn delete(&self) -> Output {
        self.command("delete")
    }

    #[track_caller]
    pub fn delete_force(&self) -> Output {
        self.call(["delete", "--force", &self.id]).output()
    }

    /// The parsed output of `state`.
    #[track_caller]
    pub fn state(&self) -> Value {
        self.command("state").json()
    }

    /// What the container created with [`Bundle::create`] has printed so far.
    pub fn printed(&self) -> String {
        self.stdout.borrow().as_ref().map_or(String::new(), |p| fs::read_to_string(p).unwrap_or_default())
    }

    /// Waits until the container has printed `count` lines and returns them as JSON.
    #[track_caller]
    pub fn wait_printed(&self, count: usize) -> Vec<Value> {
        eventually("the container prints", || self.printed().lines().count() >= count);
        runtime::lines(&self.printed())
    }

    /// Waits until the container's init has ended.
    #[track_caller]
    pub fn wait_stopped(&self) {
        assert!(runtime::wait_for_end(self.pid(), runtime::patience_ms()), "the container does not end");
        // Detection is by /proc, and the zombie may be reaped at any time: both have to read as stopped.
        assert_eq!(self.state()["status"], "stopped");
    }

    /// Creates, starts and waits for the end; returns what the container printed.
    #[track_caller]
    pub fn create_start_wait(&self) -> String {
        self.create();
        self.start();
        self.wait_stopped();
        self.printed()
    }

    /// Everything that should be gone after a delete and is not.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> =
            host::cgroups_named(&self.id).iter().map(|p| format!("cgroup {}", p.display())).collect();
        left.extend(host::mounts_under(&self.dir).into_iter().map(|m| format!("mount {m}")));
        left.extend(host::processes_marked(&format!("ORLOP_IT={}", self.id)));
        if let Ok(entries) = fs::read_dir(self.state_root()) {
            // A dot cannot begin an id here, so these are the runtime's own (crun keeps a few).
            let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
            left.extend(names.filter(|n| !n.starts_with('.')).map(|n| format!("state {n}")));
        }
        left
    }

    /// Fails the test when something is left. Processes that were killed may take a moment to go.
    #[track_caller]
    pub fn check_clean(&self) {
        let end = Instant::now() + Duration::from_secs(10);
        let mut left = self.leftovers();
        while !left.is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
            left = self.leftovers();
        }
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        let state = self.state_root();
        if fs::read_dir(&state).is_ok_and(|mut entries| entries.next().is_some()) {
            let out = self.delete_force();
            if !panicking && !out.status.success() {
                panic!("the last delete --force fails: {out}");
            }
        }
        if panicking {
            // The test has failed already; only tidy up so that others do not suffer.
            for cgroup in host::cgroups_named(&self.id) {
                // What is frozen on cgroup v1 does not die.
                drop(fs::write(cgroup.join("freezer.state"), "THAWED"));
                let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
                for pid in procs.lines().filter_map(|l| l.parse::<i32>().ok()) {
                    // SAFETY: no pointers; the pid was read from a cgroup that only this test uses.
                    unsafe { libc::kill(pid, libc::SIGKILL) };
                    runtime::wait_for_end(pid, 5_000);
                }
                drop(fs::remove_dir(&cgroup));
            }
            for line in host::mounts_under(&self.dir) {
                let target = std::ffi::CString::new(line.split(' ').nth(4).unwrap()).unwrap();
                // SAFETY: a NUL-terminated string.
                unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
            }
        } else {
            self.check_clean();
        }
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// Polls until `condition` holds, at most as long as any command may take.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_millis(u64::try_from(runtime::patience_ms()).unwrap());
    while !condition() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The mount at `dest` in a probe's report: the topmost, which is listed last.
#[track_caller]
pub fn mount_at<'a>(seen: &'a Value, dest: &str) -> &'a Value {
    let mounts = seen["mounts"].as_array().unwrap();
    mounts.iter().rev().find(|m| m["dest"] == dest).unwrap_or_else(|| panic!("no mount at {dest}: {mounts:#?}"))
}

/// True when the JSON array `list` holds the string `word`.
pub fn has(list: &Value, word: &str) -> bool {
    list.as_array().is_some_and(|l| l.iter().any(|v| v == word))
}

/// The namespace of the harness itself, as readlink prints it.
pub fn own_ns(kind: &str) -> String {
    fs::read_link(Path::new("/proc/self/ns").join(kind)).unwrap().to_str().unwrap().to_string()
}
