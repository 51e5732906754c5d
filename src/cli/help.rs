//! What `--help` says beside the options: examples, and exit codes.

use clap::Command;

/// The options' headings.
pub const WHAT: &str = "What";
pub const WHERE: &str = "Where";
pub const TUNING: &str = "Tuning";
pub const GPUDIRECT: &str = "GPUDirect";
pub const OUTPUT: &str = "Output";

const EXIT_CODES: &str = "0    done, and the answer is yes
1    done, and the answer is no: a mismatch, a failed load, a regression
2    not done: bad usage, bad input, no space, no permission; the message says what to do
130  interrupted";

const CHANGES_NOTHING: &str = "0    done
2    not done: bad usage, no permission; the message says what to do";

/// What stands below a command's options: what is done, and how it is asked for.
struct Below {
    command: &'static str,
    examples: &'static [(&'static str, &'static str)],
    exit_codes: &'static str,
}

const BELOW: &[Below] = &[
    Below {
        command: "save",
        examples: &[
            ("A directory of safetensors, as ./models/llama", "sllm-gds save --model ~/hf/Llama-3-8B --name llama"),
            ("Made-up values of a known model's shapes, for two GPUs", "sllm-gds save --model synthetic:facebook/opt-1.3b --partitions 2"),
        ],
        exit_codes: EXIT_CODES,
    },
    Below {
        command: "pack",
        examples: &[
            ("./models/llama in fewer bytes, as ./models/llama-packed", "sllm-gds pack llama --to llama-packed"),
            ("The same of a directory elsewhere", "sllm-gds pack ~/hf/Llama-3-8B --to llama-packed"),
        ],
        exit_codes: EXIT_CODES,
    },
    Below {
        command: "export",
        examples: &[
            ("The files it was saved from", "sllm-gds export llama --to ./llama-hf"),
            ("In shards of another size", "sllm-gds export llama --to ./llama-hf --max-shard-size 2GB"),
        ],
        exit_codes: EXIT_CODES,
    },
    Below {
        command: "index",
        examples: &[
            ("Beside the files themselves", "sllm-gds index ./models/llama-hf --digests"),
            ("Into a directory of its own, with links", "sllm-gds index ~/hf/Llama-3-8B --to ./models/llama"),
        ],
        exit_codes: EXIT_CODES,
    },
    Below {
        command: "load",
        examples: &[
            ("To the first GPU, every byte checked", "sllm-gds load llama --verify"),
            ("Shared out to two GPUs", "sllm-gds load llama --gpus 0,1"),
        ],
        exit_codes: EXIT_CODES,
    },
    Below {
        command: "verify",
        examples: &[
            ("Against the digests of its save", "sllm-gds verify llama"),
            ("Against the files it came from", "sllm-gds verify llama --against ~/hf/Llama-3-8B"),
        ],
        exit_codes: EXIT_CODES,
    },
    Below {
        command: "inspect",
        examples: &[
            ("A table", "sllm-gds inspect llama"),
            ("The largest tensor", "sllm-gds inspect llama --json | jq '.tensors | max_by(.bytes)'"),
        ],
        exit_codes: EXIT_CODES,
    },
    Below {
        command: "list",
        examples: &[
            ("Below ./models", "sllm-gds list"),
            ("The names alone, from elsewhere", "sllm-gds list --storage-path /mnt/nvme/models --json | jq -r '.[].name'"),
        ],
        exit_codes: CHANGES_NOTHING,
    },
    Below {
        command: "bench",
        examples: &[
            ("Ours and SafeTensors in turns, page cache warm", "sllm-gds bench --mode cached"),
            ("30 replicas of a model in random order, each read cold", "sllm-gds bench --model synthetic:facebook/opt-1.3b --mode random"),
        ],
        exit_codes: EXIT_CODES,
    },
    #[cfg(feature = "analyze")]
    Below {
        command: "analyze",
        examples: &[
            ("One page with everything", "sllm-gds analyze results/ --html page.html"),
            ("Fail where a median grew by 10 % since then", "sllm-gds analyze results/ --baseline earlier/ --max-regression 10%"),
        ],
        exit_codes: EXIT_CODES,
    },
    #[cfg(feature = "serve")]
    Below {
        command: "serve",
        examples: &[
            ("For ServerlessLLM's clients on this machine", "sllm-gds serve --storage-path ./models --mem-pool-size 32GB"),
            ("With a model in the pool from the start, and metrics", "sllm-gds serve --pin llama --metrics 127.0.0.1:9100"),
        ],
        exit_codes: "0    it was asked to end (SIGTERM, Ctrl-C), and did
1    an error broke a CUDA context, so that nothing can be loaded in the process any more: start it anew
2    it could not serve: bad usage, the address is taken, too little memory for the pool
130  a second signal, a tenth of a second after the first or later, ended it at once",
    },
    #[cfg(feature = "client")]
    Below {
        command: "status",
        examples: &[
            ("Once", "sllm-gds status"),
            ("Over a Unix socket, anew every second", "sllm-gds status --server unix:/run/sllm-gds.sock --watch"),
        ],
        exit_codes: "0    the server answered
1    no server answers there, or it went away
2    not done: bad usage, an address that is none, a server of another version
130  interrupted",
    },
    Below {
        command: "completions",
        examples: &[
            ("For this bash", "source <(sllm-gds completions bash)"),
            ("For every zsh", "sllm-gds completions zsh >~/.zfunc/_sllm-gds"),
        ],
        exit_codes: CHANGES_NOTHING,
    },
    Below {
        command: "man",
        examples: &[
            ("Read it", "sllm-gds man | man -l -"),
            ("A page for each command", "sllm-gds man --to ~/.local/share/man/man1"),
        ],
        exit_codes: CHANGES_NOTHING,
    },
    Below {
        command: "doctor",
        examples: &[
            ("Of the file system that holds the models", "sllm-gds doctor ./models"),
            ("Everything that was looked at", "sllm-gds doctor /mnt/nvme --all"),
        ],
        exit_codes: "0    GDS is possible for every PATH
1    for some PATH it is not, or that can't be told
2    not done: no such path, bad usage",
    },
    Below {
        command: "qualify",
        examples: &[
            ("By what the links and parts of this node allow", "sllm-gds qualify --path /mnt/nvme"),
            ("As good as a node that was accepted", "sllm-gds qualify --path /mnt/nvme --against node-1/qualify.json"),
        ],
        exit_codes: "0    passed: every criterion that could be judged is met; the page lists what nobody told
1    failed: some criterion was not met; the page names the likeliest cause
2    could not be judged, and the page says why: a figure that could not be measured, or what the profile wants to be
     told and was not. Or not done: bad usage, no such directory, no space
130  interrupted; what was measured is kept",
    },
];

impl Below {
    fn text(&self) -> String {
        let examples: String =
            self.examples.iter().map(|(what, how)| format!("  {what}:\n    {how}\n")).collect();
        format!("Examples:\n{examples}\n{}", codes(self.exit_codes))
    }
}

fn codes(codes: &str) -> String {
    let lines: Vec<String> = codes.lines().map(|line| format!("  {line}")).collect();
    format!("Exit codes:\n{}", lines.join("\n"))
}

/// The whole command line, with what stands below its options. `-h` is for a screen and goes without that.
pub fn complete(command: Command) -> Command {
    BELOW.iter().fold(command.after_help(codes(EXIT_CODES)), |all, below| {
        all.mut_subcommand(below.command, |command| command.after_help("").after_long_help(below.text()))
    })
}

/// The examples of a command, as one writes them.
#[cfg(test)]
pub fn examples(command: &str) -> Vec<&'static str> {
    let below = BELOW.iter().filter(|below| below.command == command);
    below.flat_map(|below| below.examples).map(|(_, how)| *how).collect()
}
