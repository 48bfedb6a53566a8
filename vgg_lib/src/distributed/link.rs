//! The way to the other ranks: a thread that makes all calls of MPI. It waits for messages while the training thread
//! computes, so that sums of gradients proceed behind the backward pass, and MPI needs no locks of its own.

use super::bucket::Bucket;
use super::share::Share;
use crate::{Error, Result};
use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::datatype::PartitionMut;
use mpi::environment::processor_name;
use mpi::request::{LocalScope, Request, scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the thread moves messages on while the training thread computes. Each time costs the latter some microseconds
/// if there is only one CPU for both.
const POLL: Duration = Duration::from_millis(1);

/// Bytes of one message; MPI counts them in 32 bits.
const MESSAGE: usize = 1 << 30;

/// What the thread has to do.
enum Task {
    Call(Box<dyn FnOnce(&SimpleCommunicator) + Send>),
    /// Gradients to be summed, and the number of such buckets in this step.
    Bucket(Bucket, usize),
}

/// The thread that makes all calls of MPI.
pub(super) struct Link {
    /// `None` once the thread is to end.
    tasks: Mutex<Option<Sender<Task>>>,
    sums: Mutex<Receiver<(Vec<Bucket>, Duration)>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Link {
    /// Starts MPI. Returns also which rank this is, and the name of this machine.
    pub(super) fn open() -> Result<(Link, Share, String)> {
        let ((tasks, inbox), (outbox, sums), (started, start)) = (channel(), channel(), channel());
        let run = move || {
            // All calls come from this thread, so it is MPI's main one.
            let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else { return };
            let world = universe.world();
            let share = Share { rank: world.rank() as usize, size: world.size() as usize };
            let host = processor_name().unwrap_or_else(|_| "a machine without a name".to_string());
            started.send((share, host)).ok();
            serve(&world, &inbox, &outbox);
        };
        let thread = thread::Builder::new().name("mpi".to_string()).spawn(run);
        let thread =
            thread.map_err(|error| Error::Config(format!("cannot start a thread for MPI: {error}; try again")))?;
        let Ok((share, host)) = start.recv() else {
            let text = "MPI was started before; a program can call distributed::init only once";
            return Err(Error::Config(text.to_string()));
        };
        let (tasks, sums, thread) = (Mutex::new(Some(tasks)), Mutex::new(sums), Mutex::new(Some(thread)));
        Ok((Link { tasks, sums, thread }, share, host))
    }

    fn send(&self, task: Task) {
        let tasks = self.tasks.lock().expect("nothing panics while it is locked");
        tasks.as_ref().expect("the job has not ended").send(task).expect("the thread of MPI runs");
    }

    /// Runs `work` on the thread and waits for its result.
    fn call<R: Send + 'static>(&self, work: impl FnOnce(&SimpleCommunicator) -> R + Send + 'static) -> R {
        let (sender, receiver) = channel();
        self.send(Task::Call(Box::new(move |world| sender.send(work(world)).unwrap_or(()))));
        receiver.recv().expect("the thread of MPI runs")
    }

    /// The sums of the numbers over the ranks.
    pub(super) fn sum(&self, numbers: Vec<f64>) -> Vec<f64> {
        self.call(move |world| {
            let mut sums = vec![0.0; numbers.len()];
            world.all_reduce_into(&numbers[..], &mut sums[..], SystemOperation::sum());
            sums
        })
    }

    /// The bytes of rank 0.
    pub(super) fn broadcast(&self, bytes: Vec<u8>) -> Vec<u8> {
        self.call(move |world| {
            let (root, mut bytes, mut len) = (world.process_at_rank(0), bytes, 0);
            if world.rank() == 0 {
                len = bytes.len();
            }
            root.broadcast_into(&mut len);
            bytes.resize(len, 0);
            bytes.chunks_mut(MESSAGE).for_each(|message| root.broadcast_into(message));
            bytes
        })
    }

    /// The texts of all ranks.
    pub(super) fn texts(&self, mut text: String) -> Vec<String> {
        // The address of an empty text is 1, which MPI takes for the constant MPI_IN_PLACE.
        text.push('\n');
        self.call(move |world| {
            let mut lengths = vec![0i32; world.size() as usize];
            world.all_gather_into(&(text.len() as i32), &mut lengths[..]);
            let starts: Vec<i32> =
                lengths.iter().scan(0, |end, len| Some(std::mem::replace(end, *end + len))).collect();
            let mut bytes = vec![0u8; lengths.iter().sum::<i32>() as usize];
            let mut parts = PartitionMut::new(&mut bytes[..], &lengths[..], &starts[..]);
            world.all_gather_varcount_into(text.as_bytes(), &mut parts);
            let text = |(start, len): (&i32, &i32)| {
                String::from_utf8_lossy(&bytes[*start as usize..(start + len - 1) as usize]).into_owned()
            };
            starts.iter().zip(&lengths).map(text).collect()
        })
    }

    /// Starts to sum gradients, as one of `buckets` in this step.
    pub(super) fn send_bucket(&self, bucket: Bucket, buckets: usize) {
        self.send(Task::Bucket(bucket, buckets));
    }

    /// Waits for the sums of all buckets of this step, in the order in which they were sent. Returns also for how long
    /// any of them was under way.
    pub(super) fn receive_buckets(&self) -> (Vec<Bucket>, Duration) {
        self.sums.lock().expect("nothing panics while it is locked").recv().expect("the thread of MPI runs")
    }

    /// Ends all ranks.
    pub(super) fn abort(&self) -> ! {
        self.call(|world| -> () { world.abort(1) });
        unreachable!("MPI has ended this process")
    }

    /// Ends MPI on this rank. The others have to do the same.
    pub(super) fn close(&self) {
        self.tasks.lock().expect("nothing panics while it is locked").take();
        if let Some(thread) = self.thread.lock().expect("nothing panics while it is locked").take() {
            thread.join().ok();
        }
    }
}

/// Does the tasks in the order in which they come, until there will be none.
fn serve(world: &SimpleCommunicator, tasks: &Receiver<Task>, sums: &Sender<(Vec<Bucket>, Duration)>) {
    while let Ok(task) = tasks.recv() {
        match task {
            Task::Call(work) => work(world),
            Task::Bucket(first, count) => sums.send(sum_buckets(world, tasks, first, count)).unwrap_or(()),
        }
    }
}

/// Sums the `count` buckets of a step, of which the others come while this runs.
fn sum_buckets(
    world: &SimpleCommunicator,
    tasks: &Receiver<Task>,
    first: Bucket,
    count: usize,
) -> (Vec<Bucket>, Duration) {
    let begin = Instant::now();
    let mut idle = Duration::ZERO;
    let mut buckets: Vec<Bucket> = (0..count).map(|_| Bucket::default()).collect();
    scope(|scope| {
        let mut free = buckets.iter_mut();
        let mut under_way = VecDeque::new();
        under_way.extend(free.next().map(|place| start(world, scope, place, first)));
        while free.len() > 0 {
            let waits = Instant::now();
            let task = tasks.recv_timeout(POLL);
            if under_way.is_empty() {
                idle += waits.elapsed();
            }
            match task {
                Ok(Task::Bucket(bucket, _)) => {
                    under_way.extend(free.next().map(|place| start(world, scope, place, bucket)));
                }
                Ok(Task::Call(work)) => work(world),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            // Asking for one moves all of them on.
            while let Some(oldest) = under_way.pop_front() {
                if let Err(oldest) = oldest.test() {
                    under_way.push_front(oldest);
                    break;
                }
            }
        }
        // The training thread waits now, too.
        under_way.into_iter().for_each(Request::wait_without_status);
    });
    (buckets, begin.elapsed() - idle)
}

/// A sum under way.
type Sum<'a, 'b> = Request<'a, [f32], &'b LocalScope<'a>>;

/// Starts to sum a bucket, which stays in its place meanwhile.
fn start<'a, 'b>(
    world: &SimpleCommunicator,
    scope: &'b LocalScope<'a>,
    place: &'a mut Bucket,
    bucket: Bucket,
) -> Sum<'a, 'b> {
    *place = bucket;
    let Bucket { gradients, sums } = place;
    world.immediate_all_reduce_into(scope, &gradients[..], &mut sums[..], SystemOperation::sum())
}
