// SPDX-License-Identifier: Apache-2.0
//! `orlop seccomp`: the commands that answer questions about profiles, on files and on bundles.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{Bundle, Output};
use crate::orlop_only;

const DOCKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/specs/vectors/docker-seccomp.json");

/// A profile in Docker's format, of the kinds of entries that its own has.
fn docker_format() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}
        ],
        "syscalls": [
            {"names": ["clone", "bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["read", "write", "mseal"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "", "includes": {},
                "excludes": {}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390x"]},
                "args": [{"index": 0, "value": 2_114_060_288_u64, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
        ]
    })
}

/// A bundle to keep files in; nothing is created from it.
fn place() -> Bundle {
    Bundle::new()
}

fn file(bundle: &Bundle, name: &str, content: &Value) -> String {
    let path: PathBuf = bundle.dir.join(name);
    fs::write(&path, content.to_string()).unwrap();
    path.to_str().unwrap().to_string()
}

fn call(bundle: &Bundle, args: &[&str]) -> Output {
    bundle.call(["seccomp"].iter().chain(args)).output()
}

#[test]
fn explain_answers_for_the_calls_of_issue_3() {
    orlop_only!("a command of orlop");
    let bundle = place();
    for (words, verdict, decided) in [
        (&["--syscall", "clone", "--arg", "flags=CLONE_NEWUSER"][..], "ERRNO(EPERM)", "defaultAction"),
        (&["--syscall", "socket", "--args", "AF_VSOCK,1,0"], "ERRNO(EPERM)", "defaultAction"),
        (&["socket", "AF_VSOCK"], "ERRNO(EPERM)", "defaultAction"),
        (&["socket", "AF_INET"], "ALLOW", "syscalls[2]"),
        (&["--syscall", "personality"], "ALLOW", "syscalls[5]"),
        (&["--syscall", "personality", "--arg", "-1"], "ERRNO(EPERM)", "defaultAction"),
        (&["--syscall", "keyctl"], "ERRNO(EPERM)", "defaultAction"),
        (&["--syscall", "600"], "ERRNO(ENOSYS)", "ENOSYS: newer than every syscall the profile names"),
        (&["--syscall", "read", "--arch", "x86"], "ALLOW", "syscalls[0]"),
        (&["--syscall", "-1"], "ERRNO(EPERM)", "defaultAction: -1 is no call"),
    ] {
        let args: Vec<&str> = ["explain", "--profile", DOCKER].iter().chain(words).copied().collect();
        let text = call(&bundle, &args).ok().stdout;
        assert!(text.contains(&format!("verdict:    {verdict}\n")), "{words:?}: {text}");
        assert!(text.contains(&format!("decided by: {decided}")), "{words:?}: {text}");
        let args: Vec<&str> = args.into_iter().chain(["--format", "json"]).collect();
        let answer = call(&bundle, &args).json();
        assert_eq!(answer["verdict"], verdict, "{answer}");
        assert!(answer["decidedBy"].as_str().unwrap().starts_with(decided), "{answer}");
    }
    let told = call(&bundle, &["explain", "-p", DOCKER, "-f", "json", "socket", "AF_NFC"]).json();
    assert_eq!(told["entry"]["index"], 3);
    assert_eq!((&told["dependsOnArguments"], &told["inAllowBitmap"]), (&json!(true), &json!(false)));
    assert_eq!(told["rules"].as_array().unwrap().len(), 3);
    assert!(told["executed"].as_u64().unwrap() < 40);
}

#[test]
fn explain_tells_which_of_stacked_profiles_decides() {
    orlop_only!("a command of orlop");
    let bundle = place();
    let own = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["keyctl", "read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71}]});
    let own = file(&bundle, "own", &own);
    for (name, verdict, by) in [
        // Of two errors the one of the profile that is loaded last.
        ("keyctl", "ERRNO(EPERM)", DOCKER),
        ("read", "ERRNO(EPROTO)", &own),
        ("write", "ALLOW", DOCKER),
    ] {
        let answer = call(&bundle, &["explain", "-p", DOCKER, "--stack", &own, "-f", "json", name]).json();
        assert_eq!((&answer["verdict"], &answer["profile"]), (&json!(verdict), &json!(by)), "{answer}");
        assert_eq!(answer["stack"].as_array().unwrap().len(), 2);
        let text = call(&bundle, &["explain", "-p", DOCKER, "--stack", &own, name]).ok().stdout;
        assert!(text.starts_with(&format!("together:   {verdict}, by {by}\n")), "{text}");
        assert_eq!(text.matches("decided by:").count(), 2, "{text}");
    }
}

#[test]
fn questions_that_make_no_sense_are_refused() {
    orlop_only!("a command of orlop");
    let bundle = place();
    let dir = bundle.dir.to_str().unwrap();
    let write = |name: &str, text: &str| {
        fs::write(bundle.dir.join(name), text).unwrap();
        format!("{dir}/{name}")
    };
    let broken = write("broken", "{\n \"defaultAction\": }");
    let types = write("types", "{\"defaultAction\": \"SCMP_ACT_ALLOW\",\n \"syscalls\": [{\"names\": 7}]}");
    let unknown = write("words", "{\"defaultAction\": \"SCMP_ACT_DENY\"}");
    let arrays = write(
        "arrays",
        "{\"defaultAction\": \"SCMP_ACT_ALLOW\",
 \"syscalls\": [[[\"read\"], \"SCMP_ACT_TRAP\", null, null]]}",
    );
    let config = write("config", "{\"ociVersion\": \"1.0.2\", \"linux\": {}}");
    let filter = write(
        "filter",
        "{\"defaultAction\": \"SCMP_ACT_ALLOW\", \"syscalls\": [{\"names\": [\"read\"], \
        \"action\": \"SCMP_ACT_TRAP\", \"includes\": {\"caps\": 1}}]}",
    );
    for (args, words) in [
        (&["explain", "-p", DOCKER, "nosuch"][..], &["no system call is named", "nosuch"][..]),
        (&["explain", "-p", DOCKER, "_llseek"], &["x86_64 has no system call _llseek", "x86"]),
        (&["explain", "-p", DOCKER, "clone", "persona=1"], &["clone has no argument persona", "flags"]),
        (&["explain", "-p", DOCKER, "socket", "AF_NOWHERE"], &["AF_NOWHERE", "neither a number"]),
        (&["explain", "-p", DOCKER, "read", "--arch", "vax"], &["--arch vax", "x86_64"]),
        (&["explain", "-p", DOCKER], &["--syscall"]),
        (&["explain", "read"], &["--profile"]),
        (&["lint", "-p", &broken], &["broken:2:19"]),
        (&["lint", "-p", &types], &["types:2:", "invalid type", "^"]),
        (&["lint", "-p", &arrays], &["arrays:2:15", "invalid type: sequence"]),
        (&["lint", "-p", &config], &["is a config.json", "--bundle"]),
        (&["compile", "-p", &unknown], &["words: defaultAction: unknown value", "SCMP_ACT_ERRNO"]),
        (&["compile", "-p", &filter], &["filter: syscalls[0].includes.caps: must be an array of strings"]),
        (&["lint", "-p", "/no/such/file"], &["/no/such/file", "no such file"]),
        (&["lint", "-p", DOCKER, "--cap", "CAP_TELEPORT"], &["CAP_TELEPORT"]),
        (&["lint", "-p", DOCKER, "--kernel", "new"], &["--kernel new"]),
        (&["lint", "-b", dir], &["config.json", "no such file"]),
    ] {
        let out = call(&bundle, args);
        // Faults of a profile are lint's result.
        let out = Output { stderr: out.stderr.clone() + &out.stdout, ..out }.fails_with(words);
        assert_eq!(out.code(), 1, "{out}");
    }
}

#[test]
fn compile_prints_the_program_in_three_forms() {
    orlop_only!("a command of orlop");
    let bundle = place();
    let text = call(&bundle, &["compile", "--profile", DOCKER]).ok().stdout;
    let json = call(&bundle, &["compile", "--profile", DOCKER, "--format", "json"]).json();
    let count = usize::try_from(json["instructions"].as_u64().unwrap()).unwrap();
    assert!((100..600).contains(&count));
    assert_eq!(json["program"].as_array().unwrap().len(), count);
    assert_eq!(text.lines().count(), count + 1, "{text}");
    assert!(text.contains("; arch") && text.contains("x86_64 socket") && text.contains("ret ERRNO(EPERM)"), "{text}");
    let raw = bundle.dir.join("raw");
    let program = crate::harness::runtime::program();
    let out = std::process::Command::new(program)
        .args(["seccomp", "compile", "--profile", DOCKER, "--format", "raw"])
        .stdout(fs::File::create(&raw).unwrap())
        .status();
    assert!(out.unwrap().success());
    let raw = fs::read(raw).unwrap();
    assert_eq!(raw.len(), 8 * count);
    for (bytes, instruction) in raw.chunks(8).zip(json["program"].as_array().unwrap()) {
        assert_eq!(u64::from(u16::from_le_bytes([bytes[0], bytes[1]])), instruction["code"]);
        assert_eq!(u64::from(u32::from_le_bytes(bytes[4..].try_into().unwrap())), instruction["k"]);
    }
    let arm = call(&bundle, &["compile", "--profile", DOCKER, "--arch", "aarch64"]).ok().stdout;
    assert!(arm.contains("aarch64 clone"), "{arm}");
}

/// Standard output keeps what follows the last newline, which a byte of the program can be.
#[test]
fn compile_writes_a_raw_program_to_its_end() {
    orlop_only!("a command of orlop");
    let bundle = Bundle::new().with_config(include_str!("bundles/docker.json"));
    bundle.write_config();
    let raw = bundle.dir.join("raw");
    let out = std::process::Command::new(crate::harness::runtime::program())
        .args(["seccomp", "compile", "--format", "raw", "--bundle", bundle.dir.to_str().unwrap()])
        .stdout(fs::File::create(&raw).unwrap())
        .status();
    assert!(out.unwrap().success());
    let raw = fs::read(raw).unwrap();
    assert!(raw.contains(&b'\n'), "the profile shows nothing");
    assert_eq!(raw.len() % 8, 0, "{} bytes", raw.len());
}

#[test]
fn lint_exits_1_on_faults_and_if_strict_on_warnings() {
    orlop_only!("a command of orlop");
    let bundle = place();
    let clean = call(&bundle, &["lint", "--profile", DOCKER, "--strict"]).ok();
    assert_eq!(clean.stdout, "");
    let odd = file(
        &bundle,
        "odd",
        &json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["read", "nosuch"], "action": "SCMP_ACT_ALLOW"}, {"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}),
    );
    let out = call(&bundle, &["lint", "--profile", &odd]).ok();
    assert!(out.stdout.contains("warning: ") && out.stdout.contains("odd: syscalls[0].names[1]: ignored"), "{out}");
    assert!(out.stdout.contains("odd: syscalls[1]: is dead"), "{out}");
    assert_eq!(call(&bundle, &["lint", "--profile", &odd, "--strict"]).code(), 1);
    let faulty = file(
        &bundle,
        "faulty",
        &json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000, "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1}]}),
    );
    let out = call(&bundle, &["lint", "--profile", &faulty, "--format", "json"]);
    assert_eq!(out.code(), 1, "{out}");
    let rows: Value = serde_json::from_str(&out.stdout).unwrap();
    let paths: Vec<&Value> = rows.as_array().unwrap().iter().map(|row| &row["path"]).collect();
    assert_eq!(paths, ["defaultErrnoRet", "syscalls[0].errnoRet"]);
}

#[test]
fn diff_prints_a_witness_and_exits_as_diff_does() {
    orlop_only!("a command of orlop");
    let bundle = place();
    let out = call(&bundle, &["diff", DOCKER, DOCKER]).ok();
    assert_eq!(out.stdout, "equal\n");
    let mut looser: Value = serde_json::from_str(&fs::read_to_string(DOCKER).unwrap()).unwrap();
    looser["syscalls"][2]["args"][0]["value"] = json!(39);
    let looser = file(&bundle, "looser", &looser);
    let out = call(&bundle, &["diff", DOCKER, &looser, "--arch", "x86_64"]);
    assert_eq!(out.code(), 1, "{out}");
    assert_eq!(out.stdout, "x86_64: socket(0x26): ERRNO(EPERM) (defaultAction) in A, ALLOW (syscalls[2]) in B\n");
    let out = call(&bundle, &["diff", DOCKER, &looser, "--format", "json"]);
    let differences: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(differences["differences"].as_array().unwrap().len(), 3, "{out}");
    assert_eq!(call(&bundle, &["diff", DOCKER, "/no/such/file"]).code(), 2);
}

#[test]
fn docker_s_format_is_resolved_for_capabilities_and_kernel() {
    orlop_only!("a command of orlop");
    let bundle = place();
    let profile = file(&bundle, "docker", &docker_format());
    let ask = |more: &[&str]| {
        let args: Vec<&str> = ["explain", "-f", "json", "-p", &profile].iter().chain(more).copied().collect();
        let answer = call(&bundle, &args).json();
        (answer["verdict"].as_str().unwrap().to_string(), answer["decidedBy"].as_str().unwrap().to_string(), answer)
    };
    let (verdict, by, answer) = ask(&["clone", "CLONE_NEWUSER"]);
    assert_eq!((verdict.as_str(), by.as_str()), ("ERRNO(EPERM)", "defaultAction"));
    assert_eq!(answer["leftOut"], json!([{"entry": 0, "holds": "only with CAP_SYS_ADMIN"}]));
    let (verdict, by, _) = ask(&["--cap", "SYS_ADMIN", "clone", "CLONE_NEWUSER"]);
    assert_eq!((verdict.as_str(), by.as_str()), ("ALLOW", "syscalls[0]"));
    // Indices are the file's, not those of what is left of it.
    let (_, by, _) = ask(&["clone", "SIGCHLD"]);
    assert_eq!(by, "syscalls[2]");
    let (_, by, _) = ask(&["ptrace"]);
    assert_eq!(by, "syscalls[3]");
    let (verdict, _, answer) = ask(&["--kernel", "4.4", "ptrace"]);
    assert_eq!((verdict.as_str(), &answer["leftOut"][0]["entry"]), ("ERRNO(EPERM)", &json!(3)));
    let (verdict, _, _) = ask(&["--arch", "aarch64", "ptrace"]);
    assert_eq!(verdict, "ALLOW");

    let out = call(&bundle, &["lint", "-p", &profile]).ok();
    assert!(out.stdout.contains("docker: syscalls[4]: is dead: it can never decide, syscalls[1]"), "{out}");

    // A bundle's bounding set stands for --cap, and its own profile is read without --profile.
    let caps = json!(["CAP_SYS_ADMIN"]);
    let own = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]});
    let bundle = place().set("/process/capabilities/bounding", caps).set("/linux/seccomp", own);
    fs::write(bundle.dir.join("config.json"), bundle.config.to_string()).unwrap();
    let dir = bundle.dir.to_str().unwrap();
    let answer = call(&bundle, &["explain", "-f", "json", "-p", &profile, "-b", dir, "clone", "CLONE_NEWUSER"]).json();
    assert_eq!(answer["decidedBy"], "syscalls[0]");
    let answer = call(&bundle, &["explain", "-f", "json", "-b", dir, "read"]).json();
    assert_eq!(answer["decidedBy"], "linux.seccomp.syscalls[0]");
    assert_eq!(call(&bundle, &["diff", dir, &profile]).code(), 1);
}
