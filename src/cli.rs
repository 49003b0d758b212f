// SPDX-License-Identifier: Apache-2.0
//! The command line: runc's flags and their meaning. Parsing makes no system call.

mod words;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::command;
use crate::error::{ResultExt, report};
use crate::log;
use crate::trace;

/// A low-level OCI container runtime: it turns a bundle (config.json and a root filesystem) into a confined process.
#[derive(Debug, Parser)]
#[command(name = "orlop", disable_version_flag = true, disable_help_subcommand = true, args_override_self = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags that stand before the command.
#[derive(Debug, Args)]
pub struct Global {
    /// Where the state of containers is kept
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Append the log to FILE instead of stderr
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Format of the log
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: log::Format,
    /// Log every system call that changes something
    #[arg(long)]
    pub debug: bool,
    /// Let systemd make the container's cgroup: linux.cgroupsPath is slice:prefix:name
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// Who manages the containers' cgroups; disabled: nobody, a container stays in its caller's
    #[arg(long, value_name = "MANAGER", value_enum, default_value_t)]
    pub cgroup_manager: CgroupManager,
    /// Hold containers to the policy in FILE too, beside the system's in /etc/orlop
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Whether to ignore cgroup permission errors
    #[arg(long, value_name = "WHETHER", value_enum, default_value_t = Rootless::Auto)]
    pub rootless: Rootless,
    /// Write when each phase of the command began to FILE, for a trace viewer; $ORLOP_TRACE says so too
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print the version
    #[arg(long, short = 'v', action = ArgAction::SetTrue)]
    pub version: bool,
}

/// `--cgroup-manager`, which is crun's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum CgroupManager {
    #[default]
    Cgroupfs,
    Systemd,
    Disabled,
}

/// `--rootless`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rootless {
    True,
    False,
    Auto,
}

/// The commands. The flags of one are defined when it is the one that is called.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
#[allow(clippy::large_enum_variant, reason = "there is one value of it in the life of the program")]
pub enum Command {
    /// Create a container: everything but its program
    Create(Create),
    /// Start the program of a created container
    Start(Id),
    /// Print the state of a container as JSON
    State(Id),
    /// Send a signal to a container's init
    Kill(Kill),
    /// Remove a container that has stopped
    Delete(Delete),
    /// Create and start a container, and wait for it unless --detach
    Run(Run),
    /// Run a further process in a container, confined as its init is
    Exec(Exec),
    /// Stop every process of a container until it is resumed
    Pause(Id),
    /// Let the processes of a paused container go on
    Resume(Id),
    /// Change the limits of a container
    Update(Update),
    /// Print what a container uses, and each kill for want of memory, as JSON
    Events(Events),
    /// List containers
    List(List),
    /// List the processes of a container
    #[command(disable_help_flag = true)]
    Ps(Ps),
    /// Write a running container to a directory, by CRIU, and remove it
    Checkpoint(Checkpoint),
    /// Make a container from a directory that checkpoint has written, by CRIU
    Restore(Restore),
    /// Write a config.json to begin with
    Spec(SpecArgs),
    /// Print what this runtime supports as JSON
    Features,
    /// Print what this host has, and what it keeps orlop from doing
    Info(InfoArgs),
    /// Print a script that completes the command line in a shell
    Completions(CompletionsArgs),
    /// Print what create would do as JSON, and do nothing
    Plan(PlanArgs),
    /// Print every fault and warning of a bundle on this host, and do nothing; the exit status is 1 if there are faults
    Check(CheckArgs),
    /// Compare a container with what was asked for; the exit status is 2 if it has drifted
    Audit(AuditArgs),
    /// Explain, compile, check and compare seccomp profiles
    #[command(subcommand)]
    Seccomp(Seccomp),
    /// Show, try and check the operator's policy
    #[command(subcommand)]
    Policy(Policy),
    /// Mount into a container that exists, and take that back
    #[command(subcommand)]
    Mounts(Mounts),
}

/// A container id.
#[derive(Debug, Args)]
pub struct Id {
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Flags of `create` and `run`.
#[derive(Debug, Args)]
pub struct Create {
    /// The bundle: a directory with config.json [default: the current directory]
    #[arg(long, short, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    #[command(flatten)]
    pub receivers: Receivers,
    /// Do not use pivot_root, for a root filesystem on a ramdisk
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Give the container a user namespace with a range of ids that no other has: auto, or auto:size=N
    #[arg(long, value_name = "auto", value_parser = userns)]
    pub userns: Option<u32>,
    /// Pass N descriptors, from 3 on, to the container, behind those of $LISTEN_FDS
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// The global flag.
    #[arg(skip)]
    pub policy: Option<PathBuf>,
    /// Likewise.
    #[arg(skip)]
    pub systemd_cgroup: bool,
    /// The global `--cgroup-manager disabled`.
    #[arg(skip)]
    pub no_cgroup: bool,
    #[command(flatten)]
    pub id: Id,
}

/// `--userns`: how many ids to lease.
fn userns(text: &str) -> Result<u32, String> {
    let size = match text {
        "auto" => Some(crate::lease::DEFAULT_SIZE),
        _ => text.strip_prefix("auto:size=").and_then(|size| size.parse().ok()).filter(|size| *size > 0),
    };
    size.ok_or_else(|| "expected auto or auto:size=N, with N ids (65536 if not given)".to_string())
}

/// Who is told of the process that is made.
#[derive(Debug, Args)]
pub struct Receivers {
    /// Write the pid of the process to FILE
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Send the terminal's master to the UNIX socket at PATH
    #[arg(long, value_name = "PATH")]
    pub console_socket: Option<PathBuf>,
    /// Send a pidfd of the process to the UNIX socket at PATH
    #[arg(long, value_name = "PATH")]
    pub pidfd_socket: Option<PathBuf>,
}

/// `exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// Take the whole process from FILE, a JSON object like `process` of config.json
    // A flag that the file made void could be the one that confines (--no-new-privs, --user).
    #[arg(long, short, value_name = "FILE", conflicts_with_all = [
        "cwd", "env", "user", "additional_gids", "cap", "process_label", "apparmor", "no_new_privs", "command",
    ])]
    pub process: Option<PathBuf>,
    /// The working directory in the container
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Set an environment variable; may be repeated
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Give the process a terminal
    #[arg(long, short)]
    pub tty: bool,
    /// The user, by number, and the group
    #[arg(long, short, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// A further group, by number; may be repeated
    #[arg(long, short = 'g', value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// Add a capability of the container's bounding set; may be repeated
    #[arg(long, short, value_name = "CAPABILITY")]
    pub cap: Vec<String>,
    /// Return when the program has started
    #[arg(long, short)]
    pub detach: bool,
    /// The SELinux label of the process
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// The AppArmor profile of the process
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// Set no_new_privs; what the container has stays set
    #[arg(long)]
    pub no_new_privs: bool,
    /// Run the process in the cgroup PATH below the container's; on v1 of these controllers, may be repeated
    #[arg(long, value_name = "[CONTROLLER[,..]:]PATH")]
    pub cgroup: Vec<String>,
    /// Do so in a paused container: the process starts when it is resumed
    #[arg(long)]
    pub ignore_paused: bool,
    /// Pass N descriptors, from 3 on, to the process, behind those of $LISTEN_FDS
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    #[command(flatten)]
    pub receivers: Receivers,
    #[command(flatten)]
    pub id: Id,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Return when the program has started
    #[arg(long, short)]
    pub detach: bool,
    /// Keep the container's state and cgroup when it has exited
    #[arg(long)]
    pub keep: bool,
    /// Do not become the parent of orphaned processes of the container
    #[arg(long)]
    pub no_subreaper: bool,
    /// Tell of each system call that the seccomp profile refuses: who made it, what decided, what would allow it
    #[arg(long)]
    pub explain_denials: bool,
    /// Append that to FILE instead of stderr
    #[arg(long, value_name = "FILE", requires = "explain_denials")]
    pub denials_log: Option<PathBuf>,
    #[command(flatten)]
    pub create: Create,
}

/// `kill`.
#[derive(Debug, Args)]
pub struct Kill {
    /// Send the signal to every process of the container
    #[arg(long, short)]
    pub all: bool,
    #[command(flatten)]
    pub id: Id,
    /// The signal, by number or by name with or without SIG
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM")]
    pub signal: String,
}

/// `delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// Kill the container first, whatever its state; a missing one is no error
    #[arg(long, short)]
    pub force: bool,
    #[command(flatten)]
    pub id: Id,
}

/// Flags of `checkpoint` and `restore` alike.
#[derive(Debug, Args)]
pub struct CriuFlags {
    /// The directory of the checkpoint [default: ./checkpoint]
    #[arg(long, value_name = "DIR")]
    pub image_path: Option<PathBuf>,
    /// Where CRIU keeps its log and statistics [default: that of --image-path]
    #[arg(long, value_name = "DIR")]
    pub work_path: Option<PathBuf>,
    /// Keep TCP connections
    #[arg(long)]
    pub tcp_established: bool,
    /// Allow UNIX sockets that are connected to processes outside
    #[arg(long)]
    pub ext_unix_sk: bool,
    /// Allow a session leader, or a terminal, that is outside
    #[arg(long)]
    pub shell_job: bool,
    /// Keep file locks
    #[arg(long)]
    pub file_locks: bool,
    /// Serve the memory to, or take it from, criu lazy-pages while the container runs
    #[arg(long)]
    pub lazy_pages: bool,
    /// What CRIU does about cgroups
    #[arg(long, value_name = "MODE", value_enum)]
    pub manage_cgroups_mode: Option<CgroupsMode>,
    /// How CRIU keeps packets away from the container meanwhile [default: iptables]
    #[arg(long, value_name = "HOW", value_enum)]
    pub network_lock: Option<NetworkLock>,
    /// Leave the contents of a namespace out; it is made empty
    #[arg(long, value_name = "NAMESPACE", value_enum)]
    pub empty_ns: Vec<EmptyNamespace>,
    /// Remove from older images what newer ones have
    #[arg(long)]
    pub auto_dedup: bool,
}

/// `--manage-cgroups-mode`, by CRIU's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CgroupsMode {
    Ignore = 0,
    Soft = 3,
    Full = 4,
    Strict = 5,
}

/// `--network-lock`, by CRIU's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NetworkLock {
    Iptables = 1,
    Nftables = 2,
    Skip = 3,
}

/// `--empty-ns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EmptyNamespace {
    Network,
}

/// `checkpoint`.
#[derive(Debug, Args)]
pub struct Checkpoint {
    #[command(flatten)]
    pub criu: CriuFlags,
    /// The directory of an earlier --pre-dump, relative to --image-path: what has not changed since is left out
    #[arg(long, value_name = "DIR")]
    pub parent_path: Option<PathBuf>,
    /// Let the container go on
    #[arg(long)]
    pub leave_running: bool,
    /// Skip TCP connections that are being made
    #[arg(long)]
    pub tcp_skip_in_flight: bool,
    /// Give files that have been removed but are open still a name
    #[arg(long)]
    pub link_remap: bool,
    /// Write a byte to descriptor N when lazy pages can be served
    #[arg(long, value_name = "N", requires = "lazy_pages", value_parser = clap::value_parser!(i32).range(0..))]
    pub status_fd: Option<i32>,
    /// Send the memory to the page server there
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub page_server: Option<String>,
    /// Write the memory only, and let the container go on
    #[arg(long)]
    pub pre_dump: bool,
    #[command(flatten)]
    pub id: Id,
}

/// `restore`.
#[derive(Debug, Args)]
pub struct Restore {
    #[command(flatten)]
    pub criu: CriuFlags,
    /// The bundle: a directory with config.json [default: the current directory]
    #[arg(long, short, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    #[command(flatten)]
    pub receivers: Receivers,
    /// Return when the container runs
    #[arg(long, short)]
    pub detach: bool,
    /// Do not become the parent of orphaned processes of the container
    #[arg(long)]
    pub no_subreaper: bool,
    /// Understood as create has it; CRIU changes the root in its own way
    #[arg(long)]
    pub no_pivot: bool,
    /// Give processes of a later exec the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Close TCP connections instead of keeping them
    #[arg(long)]
    pub tcp_close: bool,
    /// The LSM profile of the processes instead of that of the checkpoint
    #[arg(long, value_name = "TYPE:NAME")]
    pub lsm_profile: Option<String>,
    /// The SELinux context of mounts instead of that of the checkpoint
    #[arg(long, value_name = "CONTEXT")]
    pub lsm_mount_context: Option<String>,
    /// The global flag.
    #[arg(skip)]
    pub policy: Option<PathBuf>,
    #[command(flatten)]
    pub id: Id,
}

/// `update`. What a flag leaves out stays as it is.
#[derive(Debug, Args)]
pub struct Update {
    /// Read the new limits from FILE, or - for stdin: an object like linux.resources of config.json
    #[arg(long, short, value_name = "FILE", conflicts_with = "limits")]
    pub resources: Option<PathBuf>,
    #[command(flatten)]
    pub limits: Limits,
    #[command(flatten)]
    pub id: Id,
}

/// The limits of `update`: numbers as runc takes them, checked where they are used.
#[derive(Debug, Args)]
#[group(id = "limits", multiple = true)]
pub struct Limits {
    /// Weight of block I/O, from 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight: Option<u16>,
    /// Period of the CPU quota in microseconds
    #[arg(long, value_name = "US")]
    pub cpu_period: Option<u64>,
    /// CPU time in a period in microseconds, -1 for no limit
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// CPU time in microseconds that may be saved up for a later period
    #[arg(long, value_name = "US")]
    pub cpu_burst: Option<u64>,
    /// CPU shares, relative to other cgroups
    #[arg(long, value_name = "SHARES")]
    pub cpu_share: Option<u64>,
    /// Period of the real-time CPU limit in microseconds
    #[arg(long, value_name = "US")]
    pub cpu_rt_period: Option<u64>,
    /// Real-time CPU time in a period in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_rt_runtime: Option<i64>,
    /// CPUs to run on, such as 0-2,5
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to allocate from
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Run only when nothing else wants the CPU: 1, or 0 for not so
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    pub cpu_idle: Option<i64>,
    /// Memory in bytes, or with a unit as 64M; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// Memory that is kept for the container when there is little
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_reservation: Option<String>,
    /// Memory and swap together; -1 for any amount of swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Ignored with a warning: no kernel limits it any more
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, hide = true)]
    pub kernel_memory: Option<String>,
    /// Ignored with a warning: no kernel limits it any more
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, hide = true)]
    pub kernel_memory_tcp: Option<String>,
    /// Largest number of processes and threads; -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// The L3 cache of the container's class of service (linux.intelRdt)
    #[arg(long, value_name = "SCHEMA")]
    pub l3_cache_schema: Option<String>,
    /// The memory bandwidth of the container's class of service (linux.intelRdt)
    #[arg(long, value_name = "SCHEMA")]
    pub mem_bw_schema: Option<String>,
}

/// `events`.
#[derive(Debug, Args)]
pub struct Events {
    /// How long to wait between two statistics: a number with ms, s, m or h
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = interval)]
    pub interval: std::time::Duration,
    /// Print the statistics once, now, and end
    #[arg(long)]
    pub stats: bool,
    #[command(flatten)]
    pub id: Id,
}

/// A duration as Go writes it: `1m30s`, `1.5h`, `250ms`.
fn interval(text: &str) -> Result<std::time::Duration, String> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, unit_and_rest) = rest.split_at(digits);
        let end = unit_and_rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit_and_rest.len());
        let (unit, more) = unit_and_rest.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "\u{b5}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => 0.0,
        };
        // What is no number, or has no unit, makes the whole no duration.
        total += number.parse().unwrap_or(f64::NAN) * if seconds > 0.0 { seconds } else { f64::NAN };
        rest = more;
    }
    let found = std::time::Duration::try_from_secs_f64(total).ok().filter(|duration| !duration.is_zero());
    found.ok_or_else(|| "expected a number greater than 0 with ms, s, m or h, such as 5s or 1m30s".to_string())
}

/// `--format` of `list` and `ps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

/// `list`.
#[derive(Debug, Args)]
pub struct List {
    /// Output format
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
    /// Print the ids only
    #[arg(long, short)]
    pub quiet: bool,
}

/// `ps`.
#[derive(Debug, Args)]
pub struct Ps {
    /// Output format
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
    #[command(flatten)]
    pub id: Id,
    /// Options of ps(1) [default: -ef]
    #[arg(value_name = "PS OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub options: Vec<OsString>,
    /// Print help
    #[arg(long, action = ArgAction::HelpLong)]
    help: Option<bool>,
}

/// `spec`.
#[derive(Debug, Args)]
pub struct SpecArgs {
    /// Where to write config.json [default: the current directory]
    #[arg(long, short, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// For a caller that is not root: with a user namespace and without cgroups
    #[arg(long)]
    pub rootless: bool,
}

/// `info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Output format
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: TextFormat,
}

/// `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: Shell,
}

/// A shell with completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The bundle: a directory with config.json [default: the current directory]
    #[arg(long, short, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Plan for --no-pivot
    #[arg(long)]
    pub no_pivot: bool,
    /// The container's id
    #[arg(value_name = "ID", default_value = "plan")]
    pub id: String,
}

/// `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The bundle: a directory with config.json [default: the current directory]
    #[arg(long, short, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Take warnings for faults
    #[arg(long)]
    pub strict: bool,
    /// Output format
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: TextFormat,
    /// The bundle, unless --bundle names it
    #[arg(value_name = "BUNDLE")]
    pub directory: Option<PathBuf>,
}

/// `audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Output format
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: TextFormat,
    #[command(flatten)]
    pub id: Id,
}

/// `policy`.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Print every key of the policy and the line that it comes from
    Show(PolicyShow),
    /// Print what the policy would make of a bundle; the exit status is 0 if it is accepted, 3 if changed, 1 if refused
    Test(PolicyTest),
    /// Print the faults of a policy
    Check(PolicyCheck),
    /// Print a policy that behaves as the flags of a Mesos agent do
    ImportMesos(PolicyImportMesos),
}

/// `policy show`.
#[derive(Debug, Args)]
pub struct PolicyShow {
    /// Output format
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: TextFormat,
}

/// `policy test`.
#[derive(Debug, Args)]
pub struct PolicyTest {
    /// The bundle: a directory with config.json [default: the current directory]
    #[arg(long, short, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Output format
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: TextFormat,
}

/// `policy check`.
#[derive(Debug, Args)]
pub struct PolicyCheck {
    /// The policy [default: that of --policy, or the system's]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// `policy import-mesos`.
#[derive(Debug, Args)]
pub struct PolicyImportMesos {
    /// The agent's flag: what a task gets that asks for nothing
    #[arg(long = "effective_capabilities", visible_alias = "allowed_capabilities", value_name = "JSON")]
    pub effective_capabilities: Option<String>,
    /// The agent's flag: what a task may ask for
    #[arg(long = "bounding_capabilities", value_name = "JSON")]
    pub bounding_capabilities: Option<String>,
    /// The agent's flag: where seccomp profiles are
    #[arg(long = "seccomp_config_dir", value_name = "DIR")]
    pub seccomp_config_dir: Option<String>,
    /// The agent's flag: the profile of a task that names none
    #[arg(long = "seccomp_profile_name", value_name = "NAME")]
    pub seccomp_profile_name: Option<String>,
}

/// `mounts`.
#[derive(Debug, Subcommand)]
pub enum Mounts {
    /// Mount into a created, running or paused container: all that is asked for, or nothing
    Add(MountsAdd),
    /// Unmount what mounts add has mounted, and nothing else
    Remove(MountsRemove),
    /// List what mounts add has mounted
    List(MountsList),
}

/// `mounts add`.
#[derive(Debug, Args)]
pub struct MountsAdd {
    /// Bind SOURCE, a path of the host, and what is mounted below it; with OPTIONS as in config.json; may be repeated
    #[arg(long, value_name = "SOURCE:DESTINATION[:OPTIONS]")]
    pub bind: Vec<String>,
    /// Make a mount that is written as in config.json; may be repeated
    #[arg(long, value_name = "JSON")]
    pub mount: Vec<String>,
    #[command(flatten)]
    pub id: Id,
    /// A file with an array of mounts, as in config.json; - is stdin
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// `mounts remove`.
#[derive(Debug, Args)]
pub struct MountsRemove {
    #[command(flatten)]
    pub id: Id,
    /// Where in the container to unmount
    #[arg(value_name = "DESTINATION", required = true)]
    pub destinations: Vec<String>,
}

/// `mounts list`.
#[derive(Debug, Args)]
pub struct MountsList {
    /// Output format
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: Format,
    #[command(flatten)]
    pub id: Id,
}

/// `seccomp`.
#[derive(Debug, Subcommand)]
pub enum Seccomp {
    /// Print what a profile does with one system call, and which part of it says so
    Explain(SeccompExplain),
    /// Print the BPF program that a profile becomes
    Compile(SeccompCompile),
    /// Print the faults and oddities of a profile; the exit status is 1 if it has faults
    Lint(SeccompLint),
    /// Print one call for each way in which two profiles differ; the exit status is 1 if they do, 2 if that is unknown
    Diff(SeccompDiff),
    /// Run a bundle and write the least profile with which it runs
    Record(SeccompRecord),
}

/// Which profile `seccomp` reads.
#[derive(Debug, Args)]
pub struct SeccompProfile {
    /// A file with a profile: linux.seccomp of a config.json, or Docker's format
    #[arg(long, short, value_name = "FILE", required_unless_present = "bundle")]
    pub profile: Option<PathBuf>,
    /// A bundle: its linux.seccomp is the profile unless --profile is given, its bounding set stands for --cap
    #[arg(long, short, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    #[command(flatten)]
    pub resolve: SeccompResolve,
}

/// What a profile in Docker's format is resolved for.
#[derive(Debug, Args)]
pub struct SeccompResolve {
    /// A capability of the container, or ALL, for a profile in Docker's format; may be repeated
    #[arg(long, value_name = "NAME")]
    pub cap: Vec<String>,
    /// The kernel's version, for a profile in Docker's format [default: this kernel's]
    #[arg(long, value_name = "VERSION")]
    pub kernel: Option<String>,
}

/// `seccomp explain`.
#[derive(Debug, Args)]
pub struct SeccompExplain {
    #[command(flatten)]
    pub profile: SeccompProfile,
    /// A profile in FILE that holds beside it and is loaded before it; may be repeated
    #[arg(long, value_name = "FILE")]
    pub stack: Vec<PathBuf>,
    /// The system call, by name or number
    #[arg(long, value_name = "CALL", allow_hyphen_values = true)]
    pub syscall: Option<String>,
    /// An argument: a number, names such as AF_VSOCK or CLONE_NEWUSER|SIGCHLD, or NAME=VALUE; may be repeated
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    pub arg: Vec<String>,
    /// Arguments as --arg has them, separated by commas
    #[arg(long, value_name = "VALUES", allow_hyphen_values = true, value_delimiter = ',')]
    pub args: Vec<String>,
    /// The architecture of the call [default: this machine's]
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<String>,
    /// Output format
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: TextFormat,
    /// The system call, unless --syscall names it, and its arguments
    #[arg(value_name = "CALL", allow_negative_numbers = true)]
    pub call: Vec<String>,
}

/// `seccomp compile`.
#[derive(Debug, Args)]
pub struct SeccompCompile {
    #[command(flatten)]
    pub profile: SeccompProfile,
    /// The architecture of the kernel that will load the program [default: this machine's]
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<String>,
    /// Output format: assembler, the bytes of struct sock_filter, or JSON
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: ProgramFormat,
}

/// `seccomp lint`.
#[derive(Debug, Args)]
pub struct SeccompLint {
    #[command(flatten)]
    pub profile: SeccompProfile,
    /// The architecture of the kernel [default: this machine's]
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<String>,
    /// Take oddities for faults
    #[arg(long)]
    pub strict: bool,
    /// Output format
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: TextFormat,
}

/// `seccomp diff`.
#[derive(Debug, Args)]
pub struct SeccompDiff {
    /// The one profile: a file as --profile has it, or a bundle
    #[arg(value_name = "A")]
    pub a: PathBuf,
    /// The other
    #[arg(value_name = "B")]
    pub b: PathBuf,
    #[command(flatten)]
    pub resolve: SeccompResolve,
    /// Compare the calls of one architecture only
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<String>,
    /// Output format
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: TextFormat,
}

/// `seccomp record`.
#[derive(Debug, Args)]
pub struct SeccompRecord {
    /// The bundle to run: a directory with config.json [default: the current directory]
    #[arg(long, short, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Where to write the profile
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Add what an earlier recording, in FILE, has
    #[arg(long, value_name = "FILE")]
    pub merge: Option<PathBuf>,
    /// Format of the profile: linux.seccomp of a config.json, or Docker's
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: RecordFormat,
}

/// `--format` of `seccomp record`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum RecordFormat {
    #[default]
    Oci,
    Docker,
}

/// `--format` of `check`, `audit` and most of `seccomp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum TextFormat {
    #[default]
    Text,
    Json,
}

/// `--format` of `seccomp compile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ProgramFormat {
    #[default]
    Listing,
    Raw,
    Json,
}

/// Parses the arguments, runs the command, and reports its error: exit status 1, or what the container's program
/// returned.
pub fn main() -> u8 {
    crate::sys::process::forbid_backtraces();
    crate::sys::process::ignore_pipe_signal();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let status = match run(&arguments) {
        Ok(status) => status,
        Err(e) => {
            report(&e);
            1
        }
    };
    trace::finish();
    log::settle();
    // Rust's own start, which is left out, would do this at the end. `print` drops such errors, too.
    drop(std::io::stdout().flush());
    status
}

fn run(arguments: &[OsString]) -> Result<u8> {
    crate::sys::fd::sanitise_stdio()?;
    // Before anything is parsed, since the binary may execute itself and begin anew. A word that is not the command does
    // no harm.
    if arguments.iter().skip(1).any(|word| crate::sys::entry::SEALED_COMMANDS.iter().any(|command| word == command)) {
        crate::sealed::ensure(arguments)?;
    }
    let cli = match parse(&words::normal(arguments, definition)) {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let global = cli.global;
    let command = match cli.command {
        _ if global.version => {
            print_version(arguments.first());
            return Ok(0);
        }
        Some(command) => command,
        None => return usage(&Cli::command().error(clap::error::ErrorKind::MissingSubcommand, "a command is missing")),
    };
    let passed = match &command {
        Command::Create(args) => command::create::check_preserved(args.preserve_fds),
        Command::Run(args) => command::create::check_preserved(args.create.preserve_fds),
        Command::Exec(args) => command::create::check_preserved(args.preserve_fds),
        _ => Ok(()),
    };
    // Whatever the caller left open must not reach the container (CVE-2024-21626). Not before the binary has executed
    // itself: --preserve-fds asks for some of them.
    crate::sys::fd::close_on_exec_from(3)?;
    log::init(global.log.clone(), global.log_format, global.debug);
    let variable = || std::env::var_os(trace::VARIABLE).filter(|file| !file.is_empty()).map(PathBuf::from);
    if let Some(file) = global.trace.clone().or_else(variable) {
        trace::enable(file, command.word());
    }
    if let Err(e) = passed {
        return match &command {
            Command::Exec(args) => Ok(command::exec::failed(&args.id.id, e)),
            _ => Err(e),
        };
    }
    // Of other commands the flag says nothing that the container's state does not.
    let systemd_cgroup = global.systemd_cgroup || global.cgroup_manager == CgroupManager::Systemd;
    if systemd_cgroup && global.cgroup_manager == CgroupManager::Disabled {
        anyhow::bail!("--systemd-cgroup: --cgroup-manager disabled asks for no cgroup at all");
    }
    let tolerate_cgroups = match global.rootless {
        Rootless::True => Some(true),
        Rootless::False => Some(false),
        Rootless::Auto => None,
    };
    let root = command::state_root(global.root.as_deref())?;
    let policy = global.policy.as_deref();
    let no_cgroup = global.cgroup_manager == CgroupManager::Disabled;
    match command {
        Command::Create(args) => {
            let args = Create { policy: global.policy, systemd_cgroup, no_cgroup, ..args };
            command::create::create(&root, &args, tolerate_cgroups)
        }
        Command::Start(args) => command::start::start(&root, &args.id),
        Command::State(args) => command::state::state(&root, &args.id),
        Command::Kill(args) => command::kill::kill(&root, &args),
        Command::Delete(args) => command::delete::delete(&root, &args),
        Command::Run(mut args) => {
            (args.create.policy, args.create.no_cgroup) = (global.policy, no_cgroup);
            args.create.systemd_cgroup = systemd_cgroup;
            command::run::run(&root, &args, tolerate_cgroups)
        }
        Command::Exec(args) => command::exec::exec(&root, &args),
        Command::Checkpoint(args) => command::checkpoint::checkpoint(&root, &args),
        Command::Restore(_) if systemd_cgroup => {
            let refused: Result<u8> = Err(anyhow::anyhow!("--systemd-cgroup: restore makes cgroups itself only"));
            refused.hint("restore without the flag, with a linux.cgroupsPath such as /pod/name")
        }
        Command::Restore(args) => {
            command::checkpoint::restore(&root, &Restore { policy: global.policy, ..args }, tolerate_cgroups)
        }
        Command::Pause(args) => command::pause::pause(&root, &args.id),
        Command::Resume(args) => command::resume::resume(&root, &args.id),
        Command::Update(args) => command::update::update(&root, &args),
        Command::Events(args) => command::events::events(&root, &args),
        Command::List(args) => command::list::list(&root, global.root.is_some(), &args),
        Command::Ps(args) => command::ps::ps(&root, &args),
        Command::Spec(args) => command::spec::spec(&args),
        Command::Features => command::features::features(),
        Command::Info(args) => command::info::info(&root, args.format),
        Command::Completions(args) => command::completions::completions(args.shell, &definition()),
        Command::Plan(args) => command::plan::plan(&args, policy, systemd_cgroup),
        Command::Check(args) => command::check::check(&args, systemd_cgroup),
        Command::Audit(args) => command::audit::audit(&root, &args),
        Command::Seccomp(args) => command::seccomp::seccomp(&root, &args, policy, tolerate_cgroups, systemd_cgroup),
        Command::Policy(args) => command::policy::policy(&args, policy),
        Command::Mounts(args) => command::mounts::mounts(&root, &args),
    }
}

impl Command {
    /// The word of a command whose phases are told apart.
    fn word(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Start(_) => "start",
            Self::State(_) => "state",
            Self::Kill(_) => "kill",
            Self::Delete(_) => "delete",
            Self::Run(_) => "run",
            Self::Exec(_) => "exec",
            Self::List(_) => "list",
            _ => "command",
        }
    }
}

fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let matches = Cli::command().try_get_matches_from(arguments).or_else(|e| match e.kind() {
        clap::error::ErrorKind::DisplayHelp => definition().try_get_matches_from(arguments),
        _ => Err(e),
    })?;
    Cli::from_arg_matches(&matches)
}

/// The whole command line, with the flags of every command.
pub fn definition() -> clap::Command {
    let mut all = Cli::command();
    // What a command does stands at the enum; a definition that is put off replaces it by the words about its flags.
    let about: Vec<_> = all.get_subcommands().map(|command| command.get_about().cloned()).collect();
    all.build();
    for (command, about) in all.get_subcommands_mut().zip(about) {
        *command = std::mem::take(command).about(about.unwrap_or_default());
    }
    all
}

/// The lines of runc's `--version`. A caller that knows the program as runc or crun looks for that name: go-runc reads
/// nothing that does not begin with `runc version`.
fn print_version(program: Option<&OsString>) {
    let name = program.map_or(OsStr::new(""), |program| words::base_name(program));
    let peer = ["runc", "crun"].into_iter().find(|peer| name == *peer);
    let (name, program) = peer.map_or(("orlop", ""), |peer| (peer, "\nprogram: orlop"));
    command::print(&format!(
        "{name} version {}\ncommit: {}\nspec: {}{program}",
        env!("CARGO_PKG_VERSION"),
        option_env!("ORLOP_COMMIT").unwrap_or("unknown"),
        crate::spec::OCI_VERSION
    ));
}

/// Help goes to stdout with status 0; an error of usage to stderr with status 1, as runc's.
fn usage(error: &clap::Error) -> Result<u8> {
    if error.use_stderr() {
        // podman looks for runc's last words to find out whether there is a flag.
        let text = error.to_string().replace("but none was supplied", "but none was supplied: it requires an argument");
        log::stderr_line(text.trim_end());
        Ok(1)
    } else {
        command::print(error.to_string().trim_end());
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
        let exec = definition().find_subcommand("exec").and_then(|exec| exec.get_about().map(ToString::to_string));
        assert!(exec.is_some_and(|about| about.starts_with("Run a further process")));
    }

    #[test]
    fn intervals_are_written_as_go_does() {
        for (text, millis) in [("5s", 5000), ("250ms", 250), ("1m30s", 90_000), ("1.5h", 5_400_000)] {
            assert_eq!(interval(text).unwrap().as_millis(), millis, "{text}");
        }
        for text in ["", "0s", "5", "s", "-1s", "5x", "1..5s", "1e9999s", "5s5"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }

    /// Every flag that clap knows is in the manual page.
    #[test]
    fn the_manual_page_has_every_command_and_flag() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/orlop.8.md")).unwrap();
        fn check(path: &str, command: &clap::Command, page: &str, missing: &mut Vec<String>) {
            if !page.contains(path) {
                missing.push(path.to_string());
            }
            let flags = command.get_arguments().filter_map(clap::Arg::get_long);
            missing.extend(flags.filter(|flag| !page.contains(&format!("--{flag}"))).map(|f| format!("{path} --{f}")));
            for below in command.get_subcommands() {
                check(&format!("{path} {}", below.get_name()), below, page, missing);
            }
        }
        let mut missing = Vec::new();
        check("orlop", &definition(), &page, &mut missing);
        assert!(missing.is_empty(), "{missing:?}");
    }

    /// podman passes `--leave-running` twice.
    #[test]
    fn the_last_of_a_repeated_flag_counts_and_lists_are_kept() {
        let read = |line: &str| parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>()).unwrap();
        let cli = read("orlop --log /one --log /two delete --force --force id");
        assert_eq!(cli.global.log, Some("/two".into()));
        assert!(matches!(cli.command, Some(Command::Delete(Delete { force: true, .. }))));
        let cli = read("orlop exec -e ONE=1 -e TWO=2 id true");
        assert!(matches!(cli.command, Some(Command::Exec(Exec { env, .. })) if env == ["ONE=1", "TWO=2"]));
    }

    #[test]
    fn calls_of_containerd_and_conmon_are_understood() {
        for line in [
            "orlop --root /r --log /l --log-format json create --bundle /b --pid-file /p --no-pivot --no-new-keyring id",
            "orlop run --userns=auto id",
            "orlop run --userns auto:size=1000 id",
            "orlop create --bundle /b --pid-file /p --preserve-fds 2 --console-socket /s id",
            "orlop kill --all id 9",
            "orlop kill id",
            "orlop delete --force id",
            "orlop ps --format json id",
            "orlop ps id -ef",
            "orlop list --format=json",
            "orlop exec --process /p --console-socket /s --detach --pid-file /p id",
            "orlop exec id ls -l -d",
            "orlop run -d --keep --no-subreaper -b=/b id",
            "orlop checkpoint --image-path /i --work-path /w --tcp-established --file-locks --empty-ns network id",
            "orlop restore --image-path /i --work-path /w --detach --pid-file /p -no-subreaper --bundle /b id",
            "orlop restore --bundle /b --pid-file /p --no-new-keyring --detach --image-path /i --lsm-mount-context=c id",
            "orlop --log-format=json --log /l --cgroup-manager disabled create --bundle /b --pid-file /p id",
            "orlop pause id",
            "orlop resume id",
            "orlop update --resources=- id",
            "orlop update -r /f id",
            "orlop update --memory -1 --cpu-quota -1 --pids-limit -1 --memory-swap=-1 id",
            "orlop events --stats id",
            "orlop events --interval=1m30s id",
        ] {
            let words = line.split(' ').map(OsString::from).collect::<Vec<_>>();
            assert!(parse(&words::normal(&words, definition)).is_ok(), "{line}");
        }
        assert!(parse(&["orlop".into(), "create".into()]).is_err());
        // One of the two would be without effect.
        assert!(parse(&["orlop", "update", "-r", "-", "--memory", "1", "x"].map(OsString::from)).is_err());
        for userns in ["", "host", "auto:size=0", "auto:size=x", "auto:size=4294967296", "auto:"] {
            assert!(
                parse(&["orlop".into(), "create".into(), format!("--userns={userns}").into(), "x".into()]).is_err()
            );
        }
        assert!(
            parse(&["orlop".into(), "--root".into(), "/r".into(), "--version".into()]).is_ok_and(|c| c.global.version)
        );
    }
}
