//! Runs of the program over single frames, without a device that receives them: for tests and tools.

use aya::programs::{TestRun as _, TestRunOptions};

use crate::{Steering, SteeringError};

/// Bytes by which the program may make a frame longer: more than it ever does.
const LONGER: usize = 128;

/// What the program did to a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trial {
    /// What it returned: an XDP action.
    pub action: u32,
    /// The frame, afterwards.
    pub frame: Vec<u8>,
}

impl Steering {
    /// Runs the program once over `frame`, as if the device `ifindex` had received it on `queue` (BPF_PROG_TEST_RUN): counted and all,
    /// but the frame goes nowhere. In the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// When the kernel refuses: there are no such device and queue, or the frame is shorter than an Ethernet header or longer than a
    /// page holds.
    pub fn try_frame(&self, ifindex: u32, queue: u32, frame: &[u8]) -> Result<Trial, SteeringError> {
        // The fields of `struct xdp_md`: where the frame begins and ends, where its metadata does, where it came in.
        let context = [0, frame.len() as u32, 0, ifindex, queue, 0];
        let context: Vec<u8> = context.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut out = vec![0; frame.len() + LONGER];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = self.program()?.test_run(options)?;
        out.truncate(result.data_size_out as usize);
        Ok(Trial { action: result.return_value, frame: out })
    }
}
