//! The engine `host`: storage straight into host memory.

use std::io;

use super::engine::{Engine, Job, PathTaken, Target, Worker, wrong_target};
use super::source::Sources;

pub struct HostEngine {
    sources: Sources,
}

impl HostEngine {
    pub fn new(sources: Sources) -> HostEngine {
        HostEngine { sources }
    }
}

impl Engine for HostEngine {
    fn worker(&self, _lane: usize) -> io::Result<Box<dyn Worker + '_>> {
        Ok(Box::new(HostWorker(&self.sources)))
    }

    fn outcome(&self) -> PathTaken {
        self.sources.outcome("host")
    }
}

struct HostWorker<'a>(&'a Sources);

impl Worker for HostWorker<'_> {
    fn read(&mut self, job: &mut Job<'_>, done: u64) -> io::Result<u64> {
        match &mut job.target {
            Target::Host(room) => {
                self.0.read(job.file, job.file_offset + done, job.bytes - done, &mut room[done as usize..])
            }
            Target::Devices(_) | Target::Staged(..) => Err(wrong_target("host")),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}
