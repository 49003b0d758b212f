// SPDX-License-Identifier: Apache-2.0
//! What a profile does with one call, and which part of the profile says so.

use std::fmt;

use super::Examined;
use super::arch::{Arch, Call, X32_BIT};
use super::policy::{Action, Bound, Condition, Data, Decision, Reason, Test};
use super::simulate;

/// The answer to one call.
#[derive(Debug)]
pub struct Explanation {
    pub arch: Arch,
    pub number: u32,
    /// None for a number without a name.
    pub call: Option<Call>,
    pub args: [u64; 6],
    pub action: Action,
    pub reason: Reason,
    /// The rules for this number in the order in which they are tried. Empty if the arguments do not matter.
    pub rules: Vec<Bound>,
    /// The action if none of the rules matches.
    pub otherwise: Action,
    /// Entries that name the call but have the default action, so that they say nothing.
    pub ineffective: Vec<usize>,
    /// The highest number of the architecture that the profile names, above which calls get ENOSYS.
    pub newest: Option<(u32, &'static str)>,
    /// BPF instructions executed, of those there are.
    pub executed: u32,
    pub instructions: usize,
    /// Whether the kernel's bitmap of calls that are always allowed has the call (`seccomp_cache_prepare`): then it
    /// executes none of the instructions.
    pub bitmap: bool,
}

/// Explains one call under a profile. None if the emitted program does not answer, a bug.
pub fn explain(examined: &Examined, arch: Arch, number: u32, args: [u64; 6]) -> Option<Explanation> {
    let data = Data { arch: arch.audit(), number, args };
    let (action, reason) = examined.apart.explain(&data);
    let outcome = simulate::run(&examined.program, &data)?;
    let call = arch.call(number);
    let (rules, otherwise) = match examined.apart.decision(data.arch, number) {
        Some(Decision::Rules(chain)) => (chain.rules.clone(), chain.otherwise),
        _ => (Vec::new(), action),
    };
    let named = |calls: &[Call]| call.is_some_and(|call| calls.contains(&call));
    let numbers = examined.profile.rules.iter().flat_map(|rule| &rule.calls);
    let newest =
        numbers.filter_map(|call| Some((arch.number(*call)?, call.name()))).filter(|(n, _)| arch.in_sequence(*n));
    let ineffective = examined.profile.rules.iter().filter(|rule| !rule.effective && named(&rule.calls));
    Some(Explanation {
        arch,
        number,
        call,
        args,
        action,
        reason,
        rules,
        otherwise,
        ineffective: ineffective.map(|rule| rule.origin).collect(),
        newest: newest.max(),
        executed: outcome.executed,
        instructions: examined.program.len(),
        // The bitmap has the kernel's own numbers, those of x32 not among them.
        bitmap: action == Action::Allow && !outcome.reads_arguments && arch != Arch::X32 && call.is_some(),
    })
}

impl Arch {
    /// The number that a name or a number in a command means, `Err` with the reason if none.
    pub fn number_of(self, word: &str) -> Result<u32, String> {
        if let Some(number) = super::words::number(word) {
            // -1 is what a tracer leaves, so it is the one negative number there is.
            let number = if number == u64::MAX { Some(u32::MAX) } else { u32::try_from(number).ok() };
            let number = number.ok_or_else(|| format!("{word}: a system call number has 32 bits"))?;
            return Ok(if self == Arch::X32 && number < X32_BIT { number | X32_BIT } else { number });
        }
        let call = Call::find(word).ok_or_else(|| format!("no system call is named {word:?}"))?;
        self.number(call).ok_or_else(|| {
            let others: Vec<&str> =
                Arch::ALL.into_iter().filter(|arch| arch.number(call).is_some()).map(Arch::name).collect();
            let others = if others.is_empty() { "others".into() } else { others.join(", ") };
            format!("{} has no system call {word}; {others} have it", self.name())
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Condition { index, test, value } = self;
        let operator = match test {
            Test::Eq => "==",
            Test::Ne => "!=",
            Test::Lt => "<",
            Test::Le => "<=",
            Test::Gt => ">",
            Test::Ge => ">=",
            Test::Masked(mask) => return write!(f, "arg{index} & {mask:#x} == {value:#x}"),
        };
        write!(f, "arg{index} {operator} {value:#x}")
    }
}

impl Bound {
    /// `arg0 == 0x28 and arg1 < 0x3`.
    pub fn conditions_text(&self) -> String {
        let texts: Vec<String> = self.conditions.iter().map(Condition::to_string).collect();
        texts.join(" and ")
    }
}
