//! The engine `host`: storage straight into host memory.

use std::io;

use crate::load::engine::{Engine, Job, PathTaken, Target, Worker, wrong_target};
use crate::load::source::Storage;

pub struct HostEngine<'s> {
    storage: &'s dyn Storage,
}

impl<'s> HostEngine<'s> {
    pub fn new(storage: &'s dyn Storage) -> HostEngine<'s> {
        HostEngine { storage }
    }
}

impl Engine for HostEngine<'_> {
    fn worker(&self, _lane: usize) -> io::Result<Box<dyn Worker + '_>> {
        Ok(Box::new(HostWorker(self.storage)))
    }

    fn outcome(&self) -> PathTaken {
        self.storage.outcome("host")
    }
}

struct HostWorker<'a>(&'a dyn Storage);

impl Worker for HostWorker<'_> {
    fn read(&mut self, job: &mut Job<'_>, done: u64) -> io::Result<u64> {
        match &mut job.target {
            Target::Host(room) => {
                self.0.read(job.file, job.file_offset + done, job.bytes - done, &mut room[done as usize..])
            }
            Target::Devices(_) | Target::Part(_) | Target::Staged(..) => Err(wrong_target("host")),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}
