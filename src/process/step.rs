// SPDX-License-Identifier: Apache-2.0
//! Where init is, in a word of memory that it shares with its parent: even a death by SIGKILL can be placed.

use std::sync::atomic::Ordering;

use anyhow::Result;

use crate::sys::memory::SharedWord;
use crate::trace::{self, Phase};

/// The stages of init, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    Start,
    Namespaces,
    RootFilesystem,
    Console,
    CreateContainerHooks,
    PivotRoot,
    Finish,
    Credentials,
    Seccomp,
    WaitForStart,
}

const STEPS: [(Step, &str); 10] = [
    (Step::Start, "waiting for its id maps"),
    (Step::Namespaces, "entering its namespaces"),
    (Step::RootFilesystem, "mounting its root filesystem"),
    (Step::Console, "opening its terminal"),
    (Step::CreateContainerHooks, "running createContainer hooks"),
    (Step::PivotRoot, "changing its root"),
    (Step::Finish, "masking paths and setting sysctls"),
    (Step::Credentials, "changing user and capabilities"),
    (Step::Seccomp, "loading its seccomp filter"),
    (Step::WaitForStart, "waiting for start"),
];

/// The shared word.
pub struct Progress {
    step: SharedWord,
    taken: SharedWord,
}

impl Progress {
    /// Made before the clone.
    pub fn new() -> Result<Self> {
        Ok(Self { step: SharedWord::new()?, taken: SharedWord::new()? })
    }

    /// Called by init.
    pub fn reached(&self, step: Step) {
        self.step.get().store(step as u32, Ordering::Relaxed);
        trace::mark(match step {
            Step::Start => Phase::IdMaps,
            Step::Namespaces => Phase::Namespaces,
            Step::RootFilesystem => Phase::Mounts,
            Step::Console => Phase::Console,
            Step::CreateContainerHooks => Phase::ContainerHooks,
            Step::PivotRoot => Phase::PivotRoot,
            Step::Finish => Phase::MaskPaths,
            Step::Credentials => Phase::Credentials,
            Step::Seccomp => Phase::Seccomp,
            Step::WaitForStart => Phase::WaitForStart,
        });
    }

    /// Set by the parent once it has the listener of a seccomp filter that notifies.
    pub fn taken(&self) -> &SharedWord {
        &self.taken
    }

    /// Called by the parent: what init was doing last.
    pub fn describe(&self) -> &'static str {
        let now = self.step.get().load(Ordering::Relaxed);
        STEPS.iter().find(|(step, _)| *step as u32 == now).map_or("an unknown step", |(_, words)| words)
    }
}
