//! The loader names things, not switches: here an error gets those that its remedy means.

/// What a message calls a setting, and the switch that sets it.
const SWITCHES: [(&str, &str); 23] = [
    ("chunk size", "--chunk-size"),
    ("copy size", "--copy-size"),
    ("ring size", "--ring-size"),
    ("smaller ring", "--ring-size"),
    ("pool size", "--mem-pool-size"),
    ("ring or pool", "--mem-pool-size"),
    ("the engine ", "--engine"),
    ("compatibility mode", "--allow-compat"),
    ("register slabs", "--gds-register slabs"),
    ("below the storage path", "--storage-path"),
    ("overwrite it", "--overwrite"),
    ("overwriting", "--overwrite"),
    ("an export of whole tensors", "export --whole-tensors"),
    ("largest shard size", "--max-shard-size"),
    ("write the index into another directory", "--to"),
    ("the directory for the index", "--to"),
    ("hub token", "--hf-token"),
    ("the model synthetic:", "--model"),
    ("a duration of ", "--duration"),
    ("a size of ", "--size"),
    ("another port or host", "--port, --host"),
    ("another address for Prometheus", "--metrics"),
    ("at the Unix socket ", "--unix"),
];

/// The message, and behind it the switches of what it names.
pub fn with_switches(message: &str) -> String {
    let mut switches: Vec<&str> = Vec::new();
    for (name, switch) in SWITCHES {
        if message.contains(name) && !message.contains(switch) && !switches.contains(&switch) {
            switches.push(switch);
        }
    }
    match switches.is_empty() {
        true => message.to_string(),
        false => format!("{message} ({})", switches.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_switch_stands_once_and_only_where_it_is_missing() {
        let message =
            "a ring size of 9 bytes holds no copy of 16: raise it, or lower the copy size or the chunk size";
        let wanted = format!("{message} (--chunk-size, --copy-size, --ring-size)");
        assert_eq!(with_switches(message), wanted);
        assert_eq!(
            with_switches("ask for a smaller ring or pool"),
            "ask for a smaller ring or pool (--ring-size, --mem-pool-size)"
        );
        assert_eq!(
            with_switches("raise the pool size: --mem-pool-size"),
            "raise the pool size: --mem-pool-size"
        );
        assert_eq!(with_switches("no such file"), "no such file");
    }
}
