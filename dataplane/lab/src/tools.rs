//! The programs that the lab runs, and where to get them.

use std::path::PathBuf;
use std::process::Command;

use crate::error::LabError;
use crate::process::Output;

/// The Debian and Ubuntu package of a program.
fn package(program: &str) -> &'static str {
    match program {
        "ethtool" => "ethtool",
        "ping" => "iputils-ping",
        "tracepath" => "iputils-tracepath",
        "traceroute" => "traceroute",
        "curl" => "curl",
        "iperf3" => "iperf3",
        "tcpdump" => "tcpdump",
        "sha256sum" => "coreutils",
        "bird" | "birdc" => "bird2",
        "dnsmasq" => "dnsmasq-base",
        "dhclient" => "isc-dhcp-client",
        "nft" => "nftables",
        _ => "iproute2",
    }
}

/// Where `program` is; looks into the system's directories too, which a user's `PATH` often lacks.
pub(crate) fn find(program: &str) -> Result<PathBuf, LabError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| LabError::Missing { program: program.to_owned(), package: package(program) })
}

/// Runs a program to its end; an error when it fails.
pub(crate) fn run(argv: &[&str]) -> Result<Output, LabError> {
    let [program, arguments @ ..] = argv else {
        return Ok(Output::default());
    };
    let path = find(program)?;
    let output = Command::new(&path)
        .args(arguments)
        .output()
        .map_err(|source| LabError::io("cannot run", path, source))?;
    Output::from(output).success(&argv.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_an_error_that_names_its_package() {
        let error = run(&["iperf3-not-there"]).unwrap_err();
        assert!(error.to_string().contains("apt-get install iproute2"), "{error}");
    }

    #[test]
    fn a_failing_program_is_an_error_with_what_it_said() {
        let error = run(&["sh", "-c", "echo no such thing >&2; exit 3"]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no such thing") && text.contains('3'), "{text}");
        assert_eq!(run(&["sh", "-c", "echo fine"]).unwrap().stdout, "fine\n");
    }
}
