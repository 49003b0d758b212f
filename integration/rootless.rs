// SPDX-License-Identifier: Apache-2.0
//! orlop called by an ordinary user, and by root of a user namespace.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::harness::Call;

/// Covers files of the machine for one call, in a mount namespace of its own.
pub fn private_files(call: Call, files: &[(&Path, &str)]) -> Call {
    let name = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap();
    let pairs: Vec<(CString, CString)> = files.iter().map(|(from, to)| (name(from), name(Path::new(to)))).collect();
    // SAFETY: the closure makes only system calls, on strings that it owns.
    unsafe { call.pre_exec(move || cover(&pairs)) }
}

fn cover(pairs: &[(CString, CString)]) -> io::Result<()> {
    let check = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    let none = std::ptr::null();
    // SAFETY: system calls on strings that end with NUL.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, std::ptr::null()))?;
        for (from, to) in pairs {
            check(libc::mount(from.as_ptr(), to.as_ptr(), none, libc::MS_BIND, std::ptr::null()))?;
        }
    }
    Ok(())
}
