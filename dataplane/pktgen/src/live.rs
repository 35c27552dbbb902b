//! The fastest back end: the kernel hands out empty frames, a program fills them in and sends them back out of the device.
//!
//! BPF_PROG_TEST_RUN with live frames (kernel 5.18, `Documentation/bpf/bpf_prog_run.rst`). One call lasts as long as there is
//! something to send, because each begins and ends with a page pool and some 30 ms. The program stops by itself, by its own
//! clock; the call then only wastes time, until a signal ends it.

use std::os::unix::thread::JoinHandleExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use aya::maps::{Array, MapData};
use aya::programs::{ProgramError, TestRun as _, Xdp};
use aya::{Ebpf, TestRunAttrs, TestRunOptions};
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::Signal;
use throughway_traffic::{PLAN, Plan, SENDER, STATE, State};

use crate::device::Device;
use crate::send::Effort;
use crate::{Error, OBJECT, clock};

/// How often it is looked whether all is sent.
const LOOK: Duration = Duration::from_millis(2);
/// How often a signal is sent until the call has ended: one that comes before the call is lost.
const NUDGE: Duration = Duration::from_millis(2);
/// Ends the call. Without our handler it does nothing.
const SIGNAL: Signal = Signal::SIGURG;

/// The loaded program with its plan.
pub(crate) struct Live {
    program: Ebpf,
    state: Array<MapData, [u64; State::WORDS]>,
    /// What the program is run on: an empty frame, and where it comes from.
    frame: Vec<u8>,
    context: [u8; 24],
    burst: u32,
}

impl Live {
    /// Loads the program for `plan`.
    pub(crate) fn load(plan: &Plan, device: &Device) -> Result<Live, Error> {
        let mut bpf = Ebpf::load(OBJECT)?;
        let program: &mut Xdp = bpf
            .program_mut(SENDER)
            .ok_or(Error::Missing(SENDER))?
            .try_into()
            .map_err(Error::program("the generator is no XDP program"))?;
        program.load().map_err(Error::program("the kernel refuses the generator's program"))?;
        let mut take = |name| bpf.take_map(name).ok_or(Error::Missing(name));
        let mut plans: Array<MapData, [u64; Plan::WORDS]> =
            take(PLAN)?.try_into().map_err(Error::map(PLAN))?;
        let state = take(STATE)?.try_into().map_err(Error::map(STATE))?;
        plans.set(0, plan.to_words(), 0).map_err(Error::map(PLAN))?;
        let length = plan.classes.first().map_or(0, |class| class.length as usize);
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let mut context = [0; 24];
        let (_, rest) = context.split_at_mut(4);
        let (end, rest) = rest.split_at_mut(8);
        end.copy_from_slice(&(length as u64).to_ne_bytes());
        let (ingress, _) = rest.split_at_mut(4);
        ingress.copy_from_slice(&device.index.to_ne_bytes());
        Ok(Live { program: bpf, state, frame: vec![0; length], context, burst: plan.burst as u32 })
    }

    /// Sends until all is sent or `stop` is set.
    pub(crate) fn send(self, cpu: Option<usize>, stop: &AtomicBool) -> Result<Effort, Error> {
        let Live { program, state, frame, context, burst } = self;
        let handled = Arc::new(AtomicBool::new(false));
        let handler = signal_hook::flag::register(SIGNAL as i32, handled)
            .map_err(Error::system("cannot handle a signal"))?;
        let over = Arc::new(AtomicBool::new(false));
        let sender = {
            let over = Arc::clone(&over);
            thread::Builder::new()
                .name("pktgen".to_owned())
                .spawn(move || call(&program, &frame, &context, burst, cpu, &over))
                .map_err(Error::system("cannot start a thread"))?
        };
        let outcome = loop {
            if sender.is_finished() || stop.load(Ordering::Relaxed) {
                break Ok(());
            }
            match state.get(&0, 0) {
                Ok(words) if State::from_words(&words).finished != 0 => break Ok(()),
                Ok(_) => thread::sleep(LOOK),
                Err(error) => break Err(Error::map(STATE)(error)),
            }
        };
        over.store(true, Ordering::Relaxed);
        while !sender.is_finished() {
            let _ = pthread_kill(sender.as_pthread_t(), SIGNAL);
            thread::sleep(NUDGE);
        }
        signal_hook::low_level::unregister(handler);
        let cpu = sender.join().map_err(|_| Error::Died)??;
        outcome?;
        let words = state.get(&0, 0).map_err(Error::map(STATE))?;
        Ok(Effort { state: State::from_words(&words), cpu })
    }
}

/// Runs the program until `over`; the CPU time that it took.
fn call(
    program: &Ebpf,
    frame: &[u8],
    context: &[u8; 24],
    burst: u32,
    cpu: Option<usize>,
    over: &AtomicBool,
) -> Result<Duration, Error> {
    crate::send::pin(cpu)?;
    let program: &Xdp = program
        .program(SENDER)
        .ok_or(Error::Missing(SENDER))?
        .try_into()
        .map_err(Error::program("the generator is no XDP program"))?;
    let before = clock::thread_cpu();
    while !over.load(Ordering::Relaxed) {
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(context),
            // Whole batches: the program looks at the clock once for each.
            repeat: u32::MAX - u32::MAX % burst,
            attrs: TestRunAttrs::new().xdp_live_frames(burst),
            ..TestRunOptions::new()
        };
        match program.test_run(options) {
            Ok(_) => {}
            Err(error) if interrupted(&error) => {}
            Err(error) => {
                return Err(
                    Error::program("the kernel cannot run programs on live frames (Linux 5.18 can)")(error),
                );
            }
        }
    }
    Ok(clock::thread_cpu().saturating_sub(before))
}

fn interrupted(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::EINTR))
}
