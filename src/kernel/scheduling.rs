// SPDX-License-Identifier: Apache-2.0
//! sched(7), ioprio_set(2), personality(2), set_mempolicy(2).

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::error::ResultExt;
use crate::plan::scheduling::{Scheduler, Scheduling};
use crate::sys::scheduling::{Attributes, ioprio_set, personality, sched_setaffinity, sched_setattr, set_mempolicy};

/// What needs the host's privileges: the parent does it to the waiting process `pid`.
pub fn set_from_outside(pid: Pid, plan: &Scheduling) -> Result<()> {
    if let Some(scheduler) = plan.scheduler {
        let Scheduler { policy, flags, nice, priority, runtime, deadline, period } = scheduler;
        sched_setattr(pid, Attributes { size: 0, policy, flags, nice, priority, runtime, deadline, period })
            .hint_if(Errno::EPERM, "a real-time policy or a lower nice value needs CAP_SYS_NICE")
            .hint_if(Errno::EBUSY, "the deadlines of all processes together must leave room for this one")
            .context("process.scheduler")?;
    }
    if let Some(priority) = plan.io_priority {
        ioprio_set(pid, priority)
            .hint_if(Errno::EPERM, "IOPRIO_CLASS_RT needs CAP_SYS_ADMIN or CAP_SYS_NICE")
            .context("process.ioPriority")?;
    }
    Ok(())
}

/// What a process can only do to itself.
pub fn set_own(plan: &Scheduling) -> Result<()> {
    if let Some(value) = plan.personality {
        personality(value).context("linux.personality")?;
    }
    if let Some(policy) = &plan.memory_policy {
        set_mempolicy(policy.mode, &policy.nodes)
            .hint_if(Errno::EINVAL, "the nodes must exist and be allowed by the cgroup's cpuset.mems")
            .context("linux.memoryPolicy")?;
    }
    Ok(())
}

/// Binds the calling process to the processors of `mask`, if there is one.
pub fn set_affinity(mask: Option<&Vec<u64>>, member: &str) -> Result<()> {
    let Some(mask) = mask else { return Ok(()) };
    sched_setaffinity(mask)
        .hint_if(Errno::EINVAL, "none of the processors exists or is allowed by the cgroup's cpuset.cpus")
        .with_context(|| format!("process.execCPUAffinity.{member}"))
}

/// Lets the calling process run on every processor that its cgroup allows, as runc does: a caller that is bound to some
/// (taskset(1), CPUAffinity= of a service) does not pass that on to its containers.
pub fn reset_affinity() -> Result<()> {
    // The kernel takes as much of it as it has processors, NR_CPUS being 8192 at most.
    sched_setaffinity(&[u64::MAX; 128]).context("CPU affinity")
}
