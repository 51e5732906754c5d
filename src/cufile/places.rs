//! Where libcufile may lie, beside where the dynamic linker looks: one list for loading it and for the doctor, who
//! may look at a recorded machine.

pub const NAME: &str = "libcufile.so.0";
/// The variables that [`candidates`] asks for.
pub const VARIABLES: [&str; 6] = ["CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "HOME", "PATH"];

/// Files where CUDA, pip and conda put the library, best guess first, whether they are there or not. `variable`: the
/// environment; what is empty or relative in it leads nowhere. `list`: the names in a directory, none where it can't
/// be read.
pub fn candidates(
    variable: &dyn Fn(&str) -> Option<String>,
    list: &dyn Fn(&str) -> Vec<String>,
) -> Vec<String> {
    let absolute = |name: &str| variable(name).filter(|path| path.starts_with('/'));
    let mut directories = Vec::new();
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(absolute);
    for home in homes.chain(["/usr/local/cuda".to_string()]) {
        let below = ["lib64", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", "lib"];
        directories.extend(below.map(|sub| format!("{home}/{sub}")));
    }
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(absolute);
    let local = absolute("HOME").map(|home| format!("{home}/.local"));
    let path = variable("PATH").unwrap_or_default();
    let programs = path.split(':').filter(|directory| directory.starts_with('/'));
    // Debian's python3 is in /usr/bin, and what pip installs for it below /usr/local: no python3 is asked for.
    let prefixes = programs.filter_map(|directory| directory.trim_end_matches('/').rsplit_once('/'));
    let prefixes = prefixes.map(|(prefix, _)| prefix.to_string());
    let mut looked_at = Vec::new();
    for prefix in environments.chain(local).chain(prefixes) {
        let lib = format!("{prefix}/lib");
        if looked_at.contains(&lib) {
            continue;
        }
        looked_at.push(lib.clone());
        let packages = python_packages(&lib, &list(&lib));
        directories.push(lib);
        for packages in packages {
            directories.extend(["cu13/lib", "cufile/lib"].map(|sub| format!("{packages}/nvidia/{sub}")));
        }
    }
    directories.into_iter().map(|directory| format!("{directory}/{NAME}")).collect()
}

/// [`candidates`] on this machine's file system.
pub fn here(variable: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let list = |directory: &str| {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    candidates(variable, &list)
}

/// `python3.*/site-packages` and `dist-packages` in `lib`, which holds `names`; latest Python first.
fn python_packages(lib: &str, names: &[String]) -> Vec<String> {
    let mut pythons: Vec<(u32, &String)> = names
        .iter()
        // Debian's dist-packages lie under a plain `python3`.
        .filter_map(|name| {
            let minor = name.strip_prefix("python3")?.trim_start_matches('.');
            Some((minor.parse().unwrap_or(0), name))
        })
        .collect();
    pythons.sort_by(|a, b| b.cmp(a));
    let packages = |(_, name): (u32, &String)| {
        ["site-packages", "dist-packages"].map(|sub| format!("{lib}/{name}/{sub}"))
    };
    pythons.into_iter().flat_map(packages).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_where_cuda_pip_and_conda_put_it() {
        let set = |name: &str| {
            let value = match name {
                "CUDA_HOME" => "/opt/cuda",
                "CUDA_PATH" => "",
                "VIRTUAL_ENV" => "/venv",
                "CONDA_PREFIX" => "/opt/conda",
                "HOME" => "relative",
                "PATH" => "bin::/venv/bin/:/usr/bin",
                _ => return None,
            };
            Some(value.to_string())
        };
        let list = |directory: &str| {
            let names: &[&str] = match directory {
                "/venv/lib" => &["python3.9", "perl5", "python3.12"],
                "/usr/lib" => &["python3"],
                _ => &[],
            };
            names.iter().map(|name| name.to_string()).collect()
        };
        let found = candidates(&set, &list);
        let at = |path: &str| {
            let files: Vec<usize> = (0..found.len()).filter(|&i| found[i] == path).collect();
            assert_eq!(files.len(), 1, "{path}: {found:#?}");
            files[0]
        };
        assert_eq!(at("/opt/cuda/lib64/libcufile.so.0"), 0);
        let latest = at("/venv/lib/python3.12/site-packages/nvidia/cu13/lib/libcufile.so.0");
        assert!(latest < at("/venv/lib/python3.9/site-packages/nvidia/cufile/lib/libcufile.so.0"));
        at("/opt/conda/lib/libcufile.so.0");
        at("/usr/lib/python3/dist-packages/nvidia/cu13/lib/libcufile.so.0");
        assert!(found.iter().all(|path| path.starts_with('/') && !path.contains("perl5")), "{found:#?}");
    }
}
