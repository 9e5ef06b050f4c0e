// SPDX-License-Identifier: Apache-2.0
//! The vendor policy, compiled on the base in `tests/sepolicy-base`: against the list of its rules, and asked
//! what it allows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use crate::dir::Dir;
use crate::tools::{files, present, read, root, run};

const TOOLS: [&str; 2] = ["m4", "checkpolicy"];

/// The folders that most products take.
const USUAL: [&str; 3] = ["vendor", "node", "hugetlbfs"];

/// Folders that a product adds for what it needs.
pub const OPTIONAL: [&str; 5] = ["kernel-log", "block-devices", "mnt-vendor", "bugreport", "taps"];

/// What each of them allows, and no more.
const OF_OPTIONAL: &str = "
    kernel-log allow gunyahd kernel:system syslog_read
    kernel-log allow gunyahd kmsg_device:chr_file { open read }
    kernel-log allow gunyahd self:capability2 syslog
    block-devices type vendor_gunyah_block_device
    block-devices typeattribute vendor_gunyah_block_device dev_type
    block-devices allow gunyahd block_device:dir search
    block-devices allow gunyahd vendor_gunyah_block_device:blk_file { open read write getattr ioctl }
    mnt-vendor allow gunyahd mnt_vendor_file:dir { getattr search }
    mnt-vendor allow gunyahd mnt_vendor_file:file { open read getattr }
    bugreport allow hal_dumpstate_default gunyahctl_exec:file { execute read open getattr map }
    bugreport allow hal_dumpstate_default gunyahctl:process { transition siginh rlimitinh }
    bugreport dontaudit hal_dumpstate_default gunyahctl:process noatsecure
    bugreport type_transition hal_dumpstate_default gunyahctl_exec:process gunyahctl
    bugreport allow gunyahctl hal_dumpstate_default:process sigchld
    bugreport allow gunyahctl hal_dumpstate_default:fd use
    bugreport allow gunyahctl hal_dumpstate_default:fifo_file { read write getattr }
    bugreport allow gunyahctl dumpstate:fd use
    bugreport allow gunyahctl shell_data_file:file { write append getattr }
    taps allow gunyahd tun_device:chr_file { open read write getattr ioctl }
    taps allowxperm gunyahd tun_device:chr_file ioctl { 0x54ca 0x54cf-0x54d0 0x54d2 0x54d8 }
    taps allow gunyahd self:tun_socket { create relabelfrom relabelto }
";

/// A compiled policy as checkpolicy writes it out, a permission or attribute a line.
struct Policy(BTreeSet<String>);

impl Policy {
    /// Compiles folders of `sepolicy` and the text of one more file for a kind of build.
    fn compile(folders: &[&str], build: &str, extra: &str) -> Result<Self, String> {
        let dir = Dir::new("sepolicy");
        let base = root().join("tests/sepolicy-base");
        let policy = root().join("sepolicy");
        let ours = || folders.iter().map(|name| policy.join(name));
        let mut sources: Vec<PathBuf> =
            ["classes", "macros", "attributes", "platform.te"].map(|name| base.join(name)).into();
        // The added rules come last, because they name our types.
        sources.extend(ours().flat_map(|folder| files(&folder, "te")));
        sources.push(dir.0.join("extra.te"));
        sources.push(base.join("roles_contexts"));
        sources.extend(
            ours().map(|folder| folder.join("genfs_contexts")).filter(|file| file.is_file()),
        );
        std::fs::write(dir.0.join("extra.te"), extra).unwrap();
        let text = run(Command::new("m4")
            .args(["--fatal-warnings", "-D"])
            .arg(format!("target_build_variant={build}"))
            .arg("-s")
            .args(sources))?;
        std::fs::write(dir.0.join("policy.conf"), text).unwrap();
        let checkpolicy = |arguments: &[&str]| {
            run(Command::new("checkpolicy")
                .args(["-M", "-c", "30"])
                .args(arguments)
                .current_dir(&dir.0))
        };
        checkpolicy(&["-o", "policy", "policy.conf"])?;
        checkpolicy(&["-b", "-F", "-o", "rules", "policy"])?;
        let rules = std::fs::read_to_string(dir.0.join("rules")).unwrap();
        Ok(Self(lines(&rules)))
    }

    /// What this policy has and `base` has not. A domain's rules for itself that the base gives every domain are
    /// left out.
    fn added_to(&self, base: &Self) -> BTreeSet<String> {
        let given_to_all = |line: &str| {
            let mut words = line.splitn(3, ' ').skip(2);
            let rest = words.next().unwrap_or_default();
            rest.starts_with("self:") && base.0.contains(&format!("allow hal_other_default {rest}"))
        };
        self.0.difference(&base.0).filter(|line| !given_to_all(line)).cloned().collect()
    }

    /// A type and its attributes.
    fn names<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        let start = format!("typeattribute {name} ");
        let attributes = self.0.iter().filter_map(|line| line.strip_prefix(&start));
        attributes.chain([name]).collect()
    }

    /// True if the policy lets `source` do this to `target`.
    fn may(&self, source: &str, target: &str, class: &str, permission: &str) -> bool {
        let mut targets = self.names(target);
        if source == target {
            targets.push("self");
        }
        self.names(source).iter().any(|source| {
            targets.iter().any(|target| {
                let rule = format!("allow {source} {target}:{class} {permission}");
                self.0.contains(&rule)
            })
        })
    }
}

/// Lines of a policy without comments, one for each word of every list.
fn lines(text: &str) -> BTreeSet<String> {
    fn one_each(line: &str) -> Vec<String> {
        let Some((before, rest)) = line.split_once("{ ") else {
            return vec![line.to_owned()];
        };
        let (list, after) = rest.split_once(" }").unwrap();
        list.split(' ').flat_map(|word| one_each(&format!("{before}{word}{after}"))).collect()
    }
    text.lines()
        .map(|line| line.trim().trim_end_matches(';'))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .flat_map(|line| {
            // The compiler separates attributes by commas.
            let words = line.strip_prefix("typeattribute ");
            match words.and_then(|rest| rest.split_once(' ')) {
                Some((name, list)) if list.contains(',') => {
                    let list = list.replace(',', "");
                    one_each(&format!("typeattribute {name} {{ {list} }}"))
                }
                _ => one_each(line),
            }
        })
        .collect()
}

/// Every rule, type and label, against the list in `tests/sepolicy-base/expected`.
#[test]
fn the_policy_adds_exactly_the_expected_rules() {
    if !present(&TOOLS) {
        return;
    }
    let base = Policy::compile(&[], "user", "").unwrap();
    let policy = Policy::compile(&USUAL, "user", "").unwrap();
    assert!(base.0.is_subset(&policy.0), "a rule of the base is gone");
    let added = policy.added_to(&base);
    let expected = lines(&read("tests/sepolicy-base/expected"));
    let unexpected: Vec<&String> = added.difference(&expected).collect();
    let missing: Vec<&String> = expected.difference(&added).collect();
    assert!(
        unexpected.is_empty() && missing.is_empty(),
        "unexpected: {unexpected:#?}\nmissing: {missing:#?}"
    );
    // A build that can be debugged has one more, for stderr.
    let debug = Policy::compile(&USUAL, "userdebug", "").unwrap();
    let more: Vec<String> = debug.added_to(&policy).into_iter().collect();
    let kmsg = "allow gunyahd kmsg_debug_device:chr_file";
    assert_eq!(more, [format!("{kmsg} getattr"), format!("{kmsg} write")]);
}

/// What a launch needs, in the order in which it needs it: source, target, class, permission.
const NEEDED: &str = "
    init gunyahd process transition
    gunyahd gunyahd_exec file entrypoint
    gunyahd kmsg_device chr_file write
    gunyahd logdw_socket sock_file write
    gunyahd vendor_gunyah_config_file dir read
    gunyahd vendor_gunyah_config_file file open
    gunyahd vendor_gunyah_image_file file read
    gunyahd vendor_sysfs_hugepages file read
    gunyahd vendor_hugetlbfs file map
    gunyahd gunyahd_tmpfs file map
    gunyahd gunyahd capability ipc_lock
    gunyahd vendor_gunyah_device chr_file ioctl
    gunyahd vendor_gunyah_prop property_service set
    shell vendor_gunyah_prop file read
    shell gunyahctl process transition
    gunyahctl gunyahd unix_stream_socket connectto
    gunyahctl devpts chr_file write
    vendor_init vendor_sysfs_hugepages file write
";

/// What must never be allowed, whoever edits the policy and the list of its rules: first of others on what is
/// gunyahd's, then of gunyahd and its client.
const FORBIDDEN: &str = "
    shell vendor_gunyahd_socket sock_file write
    shell gunyahd unix_stream_socket connectto
    untrusted_app vendor_gunyah_device chr_file open
    hal_other_default vendor_gunyah_device chr_file open
    crosvm vendor_gunyah_device chr_file open
    hal_other_default vendor_gunyah_prop property_service set
    shell vendor_gunyah_prop property_service set
    hal_other_default gunyahd process ptrace
    hal_other_default gunyahd_tmpfs file read
    hal_other_default vendor_hugetlbfs file read
    untrusted_app vendor_gunyah_image_file file read

    gunyahd shell_exec file execute
    gunyahd vendor_toolbox_exec file execute_no_trans
    gunyahd vendor_gunyah_config_file file write
    gunyahd vendor_gunyah_image_file file write
    gunyahd vendor_data_file file write
    gunyahd sysfs file write
    gunyahd block_device blk_file read
    gunyahd kmsg_device chr_file read
    gunyahd gunyahd tcp_socket create
    gunyahd gunyahd process execmem
    gunyahd gunyahd process ptrace
    gunyahd gunyahd capability sys_admin
    gunyahctl gunyahctl capability ipc_lock
    gunyahctl vendor_gunyah_config_file file open
    gunyahctl vendor_gunyah_device chr_file open
";

#[test]
fn what_a_launch_needs_is_allowed_and_no_more() {
    if !present(&TOOLS) {
        return;
    }
    let policy = Policy::compile(&USUAL, "user", "").unwrap();
    for (table, expected) in [(NEEDED, true), (FORBIDDEN, false)] {
        for line in table.lines().filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [source, target, class, permission] = words[..] else { panic!("{line}") };
            let allowed = policy.may(source, target, class, permission);
            assert_eq!(allowed, expected, "{source} {target}:{class} {permission}");
        }
    }
    let permissive = policy.0.iter().find(|line| line.starts_with("permissive "));
    assert_eq!(permissive, None);
}

/// What the integrator's build would refuse, the base refuses.
#[test]
fn forbidden_rules_do_not_compile() {
    if !present(&TOOLS) {
        return;
    }
    for rule in [
        "allow shell gunyahd:unix_stream_socket connectto;",
        "allow gunyahd self:capability dac_override;",
        "allow gunyahd system_file:file execute_no_trans;",
        "allow gunyahd block_device:blk_file { open read };",
        "allow untrusted_app vendor_gunyah_prop:property_service set;",
        "allow shell vendor_gunyah_config_prop:file read;",
        "typeattribute gunyahd coredomain;",
        // /dev/vhost-vsock has the label of /dev/kvm: docs/sepolicy.md.
        "allow gunyahd vm_manager_device_type:chr_file { open read write ioctl };",
    ] {
        let Err(error) = Policy::compile(&USUAL, "user", rule) else { panic!("{rule} compiles") };
        assert!(error.contains("neverallow"), "{rule}: {error}");
    }
}

/// Calls of the driver's API that gunyahd does not make.
const UNUSED: &str =
    "VM_REMOVE_FUNCTION ANDROID_CREATE_CMA_MEM_FD VM_ANDROID_MAP_CMA_MEM VM_ANDROID_SET_AUTH_TYPE";

/// SELinux sees the low 16 bits of an ioctl's number. gunyahd may use those that it calls and no other.
#[test]
fn the_allowed_ioctls_are_those_of_the_driver() {
    let number = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let list = read("sepolicy/vendor/gunyahd.te");
    let (_, list) = list.split_once("chr_file ioctl {").unwrap();
    let (list, _) = list.split_once('}').unwrap();
    let allowed: BTreeSet<u32> = list.split_whitespace().map(number).collect();

    let api = read("gunyah/src/uapi.rs");
    let types = BTreeMap::from([("IOCTL_TYPE", b'G'), ("ANDROID_IOCTL_TYPE", b'A')]);
    let call = r"pub const (\w+): u32 =\s*iow?\((\w+),\s*(0x[0-9a-f]+)[,)]";
    let call = regex::Regex::new(call).unwrap();
    let calls: BTreeMap<&str, u32> = call
        .captures_iter(&api)
        .map(|found| found.extract())
        .map(|(_, [name, kind, n])| (name, u32::from(types[kind]) << 8 | number(n)))
        .collect();
    let unused: BTreeSet<&str> = UNUSED.split_whitespace().collect();
    assert!(unused.iter().all(|name| calls.contains_key(name)), "{calls:x?}");
    let used = calls.iter().filter(|(name, _)| !unused.contains(*name));
    assert_eq!(allowed, used.map(|(_, number)| *number).collect());
}

/// The folders that a product chooses from, as docs/porting.md combines them.
#[test]
fn every_choice_of_folders_compiles() {
    if !present(&TOOLS) {
        return;
    }
    let usual = Policy::compile(&USUAL, "user", "").unwrap();
    // Shared with Android's own crosvm: that, and nobody else.
    let shared = Policy::compile(&["vendor", "node-shared", "hugetlbfs"], "user", "").unwrap();
    let more: Vec<String> = shared.added_to(&usual).into_iter().collect();
    let attribute = |name: &str| format!("typeattribute vendor_gunyah_device {name}");
    assert_eq!(more, ["mlstrustedobject", "vm_manager_device_type"].map(attribute));
    assert!(shared.may("crosvm", "vendor_gunyah_device", "chr_file", "open"));
    assert!(!shared.may("shell", "vendor_gunyah_device", "chr_file", "open"));
    let all: Vec<&str> = USUAL.into_iter().chain(OPTIONAL).collect();
    Policy::compile(&all, "user", "").unwrap();
    for folder in OPTIONAL {
        let start = format!("{folder} ");
        let of_folder = OF_OPTIONAL.lines().filter_map(|line| line.trim().strip_prefix(&start));
        let expected = lines(&of_folder.collect::<Vec<_>>().join("\n"));
        let ours: Vec<&str> = USUAL.into_iter().chain([folder]).collect();
        let added = Policy::compile(&ours, "user", "").unwrap().added_to(&usual);
        assert_eq!(added, expected, "{folder}");
    }
    // A tree that labels both already, with the lines that the page gives.
    let error = Policy::compile(&["vendor"], "user", "").err().unwrap();
    assert!(error.contains("unknown type vendor_gunyah_device"), "{error}");
    let theirs =
        "type vendor_gunyah_chr_device, dev_type;\ntype vendor_their_hugetlbfs, fs_type;\n";
    let aliases = [
        "typealias vendor_gunyah_chr_device alias vendor_gunyah_device;",
        "typealias vendor_their_hugetlbfs alias vendor_hugetlbfs;",
    ];
    let page = read("docs/sepolicy.md").replace("THEIR_TYPE", "vendor_gunyah_chr_device");
    let page = page.replace("THEIR_HUGETLBFS", "vendor_their_hugetlbfs");
    assert!(aliases.iter().all(|line| page.contains(line)), "{aliases:?}");
    let mut extra = theirs.to_owned() + &aliases.join("\n") + "\n";
    let policy = Policy::compile(&["vendor"], "user", &extra).unwrap();
    assert!(policy.may("gunyahd", "vendor_gunyah_chr_device", "chr_file", "ioctl"));
    assert!(policy.may("gunyahd", "vendor_their_hugetlbfs", "file", "map"));
    assert!(!policy.may("crosvm", "vendor_gunyah_chr_device", "chr_file", "open"));
    // A type of another partition's has an attribute in the alias's place.
    let attribute = [
        "attribute vendor_gunyah_device;",
        "typeattribute vendor_gunyah_chr_device vendor_gunyah_device;",
    ];
    assert!(attribute.iter().all(|line| page.contains(line)), "{attribute:?}");
    let other = [theirs, &attribute.join("\n"), "\n", aliases[1], "\n"].concat();
    let policy = Policy::compile(&["vendor"], "user", &other).unwrap();
    assert!(policy.may("gunyahd", "vendor_gunyah_chr_device", "chr_file", "ioctl"));
    // The same, shared with crosvm.
    for attribute in ["mlstrustedobject", "vm_manager_device_type"] {
        let line = format!("typeattribute vendor_gunyah_chr_device {attribute};");
        assert!(page.contains(&line), "{line}");
        extra += &(line + "\n");
    }
    let policy = Policy::compile(&["vendor"], "user", &extra).unwrap();
    assert!(policy.may("crosvm", "vendor_gunyah_chr_device", "chr_file", "open"));
}

/// A vendor's types begin with `vendor_`, except domains and what the macros derive from them.
#[test]
fn new_types_have_a_vendors_names() {
    for line in lines(&read("tests/sepolicy-base/expected")) {
        let Some(name) = line.strip_prefix("type ") else {
            continue;
        };
        let known = ["vendor_", "gunyahd", "gunyahctl"];
        assert!(known.iter().any(|start| name.starts_with(start)), "{name}");
    }
}
