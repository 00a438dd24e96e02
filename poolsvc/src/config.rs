//! What the daemon is told: by flags, by a file whose keys have the flags' names, or not at all.
//! A flag goes before the file, the file before the default.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use pool_api::Limits;
use pool_api::auth::Credential;
use pool_core::digest::ObjectId;
use pool_core::name::Name;
use pool_store::manifest::TokenScope;
use pool_store::quota::Quota;
use serde::Deserialize;

/// Where the service listens unless it is told otherwise.
pub const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7420);

/// What a collection finds to do grows by what is pushed and deleted, which build servers do by the hour; one that finds
/// nothing costs next to nothing.
const COLLECT_INTERVAL: Duration = Duration::from_secs(3600);

/// A week: a disk that goes bad does so over weeks, pages that are not read for longer are those that nobody would find
/// damaged in time, and a push mends them while whoever built them still can.
const SCRUB_INTERVAL: Duration = Duration::from_secs(7 * 86_400);

/// Bytes a second of a scrub: a tenth or less of what a disk gives, so that nobody notices, and a terabyte takes 14
/// hours.
const SCRUB_RATE: u64 = 20_000_000;

/// Keeps each page of unikernel images and their libraries once, and serves them over HTTP.
#[derive(Debug, Default, Parser)]
#[command(
    name = "poolsvc",
    version,
    after_help = "Examples:\n  \
        poolsvc --store /var/lib/pool\n  \
        poolsvc --store /var/lib/pool --socket /run/pool.sock --grace 604800\n  \
        poolsvc --store /var/lib/pool --listen 0.0.0.0:7420 --config /etc/poolsvc.toml\n\n\
        The configuration file is TOML, with the flags' names as keys; tokens and quotas are there only:\n  \
        [[token]]\n  name = \"ci\"\n  scope = \"write\"           # read, write or admin\n  \
        secret-file = \"/run/secrets/pool-ci\"\n\n  \
        [[quota]]\n  prefix = \"team-a-\"         # of names of images and libraries; \"\" is all\n  \
        bytes = 20_000_000_000     # that their files may have together, in whole pages, shared or not\n\n\
        POOLSVC_LOG chooses what is logged, as in POOLSVC_LOG=debug."
)]
pub struct Arguments {
    /// Directory of the store; a new one is made where it is absent
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Make a new store where the directory is empty, too: it could be a mount point whose
    /// filesystem is missing
    #[arg(long)]
    pub create: bool,
    /// Address to listen on; port 0 takes a free one and prints it [default: 127.0.0.1:7420]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Unix socket to listen on, too
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Seconds that a library version stays after its last user has gone [default: 86400]
    #[arg(long, value_name = "SECONDS")]
    pub grace: Option<u64>,
    /// Collect garbage every so many seconds, and when a push finds no room on the disk; 0 is never
    /// [default: 3600, an hour]
    #[arg(long, value_name = "SECONDS")]
    pub collect_interval: Option<u64>,
    /// Read all that is stored, and look for damage, every so many seconds; 0 is never
    /// [default: 604800, a week]
    #[arg(long, value_name = "SECONDS")]
    pub scrub_interval: Option<u64>,
    /// ... so many bytes a second at most; 0 is as many as the disk gives [default: 20000000]
    #[arg(long, value_name = "BYTES")]
    pub scrub_rate: Option<u64>,
    /// Most bytes of a file sent whole, or of the pages of one request [default: 4 GiB]
    #[arg(long, value_name = "BYTES")]
    pub body_limit: Option<u64>,
    /// Most uploads at a time [default: 64]
    #[arg(long, value_name = "COUNT")]
    pub max_uploads: Option<usize>,
    /// Forget an upload after so many seconds without a request [default: 600]
    #[arg(long, value_name = "SECONDS")]
    pub upload_idle: Option<u64>,
    /// Memory for pages and files of all uploads under way, of which one has a quarter at most; what has no room waits in files
    /// [default: 128 MiB]
    #[arg(long, value_name = "BYTES")]
    pub upload_memory: Option<u64>,
    /// Cut a client off that sends a body, or takes an answer, more slowly than so many bytes a
    /// second [default: 1024]
    #[arg(long, value_name = "BYTES")]
    pub speed_limit: Option<u64>,
    /// ... over so many seconds; 0 is never [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub speed_time: Option<u64>,
    /// Store a 2 MiB window densely from so many pages on, 1 to 513 [default: 32]
    #[arg(long, value_name = "PAGES")]
    pub dense_from_pages: Option<u32>,
    /// Bytes of a segment of a new store, a multiple of 2 MiB [default: 64 MiB]
    #[arg(long, value_name = "BYTES")]
    pub segment_bytes: Option<u64>,
}

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ConfigFile {
    store: Option<PathBuf>,
    listen: Option<SocketAddr>,
    socket: Option<PathBuf>,
    grace: Option<u64>,
    collect_interval: Option<u64>,
    scrub_interval: Option<u64>,
    scrub_rate: Option<u64>,
    body_limit: Option<u64>,
    max_uploads: Option<usize>,
    upload_idle: Option<u64>,
    upload_memory: Option<u64>,
    speed_limit: Option<u64>,
    speed_time: Option<u64>,
    dense_from_pages: Option<u32>,
    segment_bytes: Option<u64>,
    #[serde(default, rename = "token")]
    tokens: Vec<ConfigToken>,
    #[serde(default, rename = "quota")]
    quotas: Vec<ConfigQuota>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ConfigQuota {
    prefix: String,
    bytes: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ConfigToken {
    name: String,
    scope: TokenScope,
    /// BLAKE3 of the secret, as `b3sum` prints it.
    digest: Option<ObjectId>,
    /// A file that holds the secret, white space around it left out.
    secret_file: Option<PathBuf>,
}

/// Everything decided.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of the store.
    pub store: PathBuf,
    /// Make a new store where that directory is empty; it is made where it is absent in any case.
    pub create: bool,
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Unix socket to listen on, too.
    pub socket: Option<PathBuf>,
    /// How long a library version stays after its last user has gone.
    pub grace: Duration,
    /// Time between collections, if they are to run by themselves.
    pub collect_interval: Option<Duration>,
    /// Time between scrubs, if they are to run by themselves.
    pub scrub_interval: Option<Duration>,
    /// Bytes a second that these read at most.
    pub scrub_rate: Option<NonZeroU64>,
    /// What a client may ask for at once.
    pub limits: Limits,
    /// Bytes of memory for pages and files of uploads under way.
    pub upload_memory: u64,
    /// From how many pages on a window is stored densely.
    pub dense_from_pages: u32,
    /// Bytes of a segment of a new store.
    pub segment_bytes: u64,
    /// Tokens of the configuration file.
    pub tokens: Vec<Credential>,
    /// What may be under names.
    pub quotas: Vec<Quota>,
}

impl Settings {
    /// The defaults for the store in `store`, with a free port.
    pub fn for_store(store: impl Into<PathBuf>) -> Self {
        let mut listen = DEFAULT_LISTEN;
        listen.set_port(0);
        Self {
            store: store.into(),
            create: false,
            listen,
            socket: None,
            grace: Duration::from_secs(86_400),
            collect_interval: Some(COLLECT_INTERVAL),
            scrub_interval: Some(SCRUB_INTERVAL),
            scrub_rate: NonZeroU64::new(SCRUB_RATE),
            limits: Limits::default(),
            upload_memory: pool_store::StoreOptions::default().upload_memory,
            dense_from_pages: pool_store::placement::PlacementPolicy::default().dense_from_pages,
            segment_bytes: pool_store::StoreOptions::default().segment_bytes,
            tokens: Vec::new(),
            quotas: Vec::new(),
        }
    }

    /// Puts flags, configuration file and defaults together.
    pub fn gather(flags: Arguments) -> Result<Self> {
        let file = match &flags.config {
            Some(path) => read_file(path)
                .with_context(|| format!("reading the configuration {}", path.display()))?,
            None => ConfigFile::default(),
        };
        let Some(store) = flags.store.or(file.store) else {
            bail!("no store is named: give --store DIR, or store = \"DIR\" in the configuration");
        };
        let mut settings = Self::for_store(store);
        settings.create = flags.create;
        settings.listen = flags.listen.or(file.listen).unwrap_or(DEFAULT_LISTEN);
        settings.socket = flags.socket.or(file.socket);
        let seconds = |flag: Option<u64>, file: Option<u64>| flag.or(file).map(Duration::from_secs);
        if let Some(grace) = seconds(flags.grace, file.grace) {
            settings.grace = grace;
        }
        settings.collect_interval = seconds(flags.collect_interval, file.collect_interval)
            .or(settings.collect_interval)
            .filter(|interval| !interval.is_zero());
        settings.scrub_interval = seconds(flags.scrub_interval, file.scrub_interval)
            .or(settings.scrub_interval)
            .filter(|interval| !interval.is_zero());
        if let Some(rate) = flags.scrub_rate.or(file.scrub_rate) {
            settings.scrub_rate = NonZeroU64::new(rate);
        }
        let limits = &mut settings.limits;
        limits.body = flags.body_limit.or(file.body_limit).unwrap_or(limits.body);
        limits.uploads = flags
            .max_uploads
            .or(file.max_uploads)
            .unwrap_or(limits.uploads);
        if limits.uploads == 0 {
            bail!("max-uploads is 0, so that nobody could ever push: use 1 or more");
        }
        limits.upload_idle =
            seconds(flags.upload_idle, file.upload_idle).unwrap_or(limits.upload_idle);
        if let Some(bytes) = flags.upload_memory.or(file.upload_memory) {
            settings.upload_memory = bytes;
        }
        let pace = &mut settings.limits.pace;
        pace.bytes_per_second = flags
            .speed_limit
            .or(file.speed_limit)
            .unwrap_or(pace.bytes_per_second);
        pace.time = seconds(flags.speed_time, file.speed_time).unwrap_or(pace.time);
        if let Some(pages) = flags.dense_from_pages.or(file.dense_from_pages) {
            if !(1..=513).contains(&pages) {
                bail!(
                    "dense-from-pages is {pages}: use 1 (every window is stored densely) to 513 \
                     (none is)"
                );
            }
            settings.dense_from_pages = pages;
        }
        if let Some(bytes) = flags.segment_bytes.or(file.segment_bytes) {
            settings.segment_bytes = bytes;
        }
        settings.tokens = file
            .tokens
            .into_iter()
            .map(credential)
            .collect::<Result<_>>()?;
        let mut names = HashSet::new();
        if let Some(twice) = settings.tokens.iter().find(|t| !names.insert(&t.name)) {
            bail!("two tokens are named {}: rename one", twice.name);
        }
        settings.quotas = file.quotas.into_iter().map(quota).collect::<Result<_>>()?;
        let mut prefixes = HashSet::new();
        if let Some(twice) = settings.quotas.iter().find(|q| !prefixes.insert(&q.prefix)) {
            bail!("two quotas are for \"{}\": leave one", twice.prefix);
        }
        Ok(settings)
    }
}

fn read_file(path: &Path) -> Result<ConfigFile> {
    Ok(toml::from_str(&fs::read_to_string(path)?)?)
}

fn quota(quota: ConfigQuota) -> Result<Quota> {
    let ConfigQuota { prefix, bytes } = quota;
    if !prefix.is_empty() {
        // What cannot be a name is the beginning of none.
        Name::new(prefix.as_str())
            .with_context(|| format!("the prefix of a quota, \"{prefix}\""))?;
    }
    Ok(Quota { prefix, bytes })
}

fn credential(token: ConfigToken) -> Result<Credential> {
    let name = Name::new(token.name).context("the name of a token in the configuration")?;
    let secret = match (token.digest, token.secret_file) {
        (Some(digest), None) => digest,
        (None, Some(path)) => {
            let secret = fs::read_to_string(&path).with_context(|| {
                format!("reading the secret of token {name}, {}", path.display())
            })?;
            let secret = secret.trim();
            if secret.len() < 16 {
                bail!("the secret of token {name} is shorter than 16 characters: use a longer one");
            }
            if !secret.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
                bail!(
                    "the secret of token {name} holds characters that no request can carry: use \
                     those of ASCII, on one line"
                );
            }
            ObjectId::of(secret.as_bytes())
        }
        _ => bail!("token {name} needs either digest or secret-file"),
    };
    Ok(Credential {
        name: name.as_str().to_owned(),
        secret,
        scope: token.scope,
        created_at: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(flags: &[&str]) -> Result<Settings> {
        let flags = std::iter::once("poolsvc").chain(flags.iter().copied());
        Settings::gather(Arguments::parse_from(flags))
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let directory = tempfile::tempdir().unwrap();
        let secret = directory.path().join("secret");
        fs::write(&secret, "correct horse battery staple\n").unwrap();
        let config = directory.path().join("poolsvc.toml");
        let text = format!(
            "store = '/from/file'\nlisten = '127.0.0.1:1'\ngrace = 5\nbody-limit = 7\n\
             upload-memory = 11\n\
             [[token]]\nname = 'ci'\nscope = 'write'\nsecret-file = '{}'\n\
             [[quota]]\nprefix = ''\nbytes = 20_000_000_000\n",
            secret.display()
        );
        fs::write(&config, text).unwrap();
        let config = config.to_str().unwrap();
        let settings = gather(&["--config", config, "--grace", "9"]).unwrap();
        assert_eq!(settings.store, Path::new("/from/file"));
        assert_eq!(settings.listen.port(), 1);
        assert_eq!(settings.grace.as_secs(), 9);
        assert_eq!(settings.limits.body, 7);
        assert_eq!(settings.upload_memory, 11);
        assert_eq!(settings.limits.uploads, Limits::default().uploads);
        let quota = Quota {
            prefix: String::new(),
            bytes: 20_000_000_000,
        };
        assert_eq!(settings.quotas, [quota]);
        assert_eq!(settings.tokens.len(), 1);
        let digest = ObjectId::of(b"correct horse battery staple");
        assert_eq!(settings.tokens[0].secret, digest);
        assert!(
            gather(&["--config", config, "--store", "/x"])
                .unwrap()
                .store
                == Path::new("/x")
        );
    }

    #[test]
    fn collections_are_an_hour_apart_unless_told_otherwise() {
        let interval = |flags: &[&str]| {
            let settings = gather(&[&["--store", "s"], flags].concat()).unwrap();
            settings.collect_interval.map(|interval| interval.as_secs())
        };
        assert_eq!(interval(&[]), Some(3600));
        assert_eq!(interval(&["--collect-interval", "7"]), Some(7));
        assert_eq!(interval(&["--collect-interval", "0"]), None);
    }

    #[test]
    fn scrubs_are_a_week_apart_unless_told_otherwise() {
        let scrubs = |flags: &[&str]| {
            let settings = gather(&[&["--store", "s"], flags].concat()).unwrap();
            let rate = settings.scrub_rate.map(NonZeroU64::get);
            (settings.scrub_interval.map(|i| i.as_secs()), rate)
        };
        assert_eq!(scrubs(&[]), (Some(604_800), Some(20_000_000)));
        assert_eq!(
            scrubs(&["--scrub-interval", "0", "--scrub-rate", "0"]),
            (None, None)
        );
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("poolsvc.toml");
        fs::write(&config, "scrub-interval = 5\nscrub-rate = 6\n").unwrap();
        let config = config.to_str().unwrap();
        let of_file = ["--config", config, "--scrub-rate", "7"];
        assert_eq!(scrubs(&of_file), (Some(5), Some(7)));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("poolsvc.toml");
        let digest = "0".repeat(64);
        let token = format!("[[token]]\nname='x'\nscope='read'\ndigest='{digest}'\n");
        let twice = format!("store = 's'\n{token}{token}");
        let secret = directory.path().join("secret");
        fs::write(&secret, "a long enough secret\non two lines\n").unwrap();
        let file = secret.display();
        let unsent =
            format!("store = 's'\n[[token]]\nname='x'\nscope='read'\nsecret-file='{file}'\n");
        let quota = "[[quota]]\nprefix = 'a'\nbytes = 1\n";
        let alike = format!("store = 's'\n{quota}{quota}");
        for (text, says) in [
            ("grace = 1", "--store"),
            ("store = 's'\ngarce = 1", "garce"),
            ("store = 's'\ndense-from-pages = 0", "dense-from-pages"),
            ("store = 's'\nmax-uploads = 0", "max-uploads"),
            ("store = 's'\n[[token]]\nname='x'\nscope='root'", "root"),
            (
                "store = 's'\n[[token]]\nname='x'\nscope='read'",
                "secret-file",
            ),
            ("store = 's'\n[[token]]\nname='../x'\nscope='read'", "name"),
            (&twice, "two tokens are named x"),
            (&unsent, "no request can carry"),
            ("store = 's'\n[[quota]]\nprefix='a b'\nbytes=1", "\"a b\""),
            ("store = 's'\n[[quota]]\nprefix='a'", "bytes"),
            ("store = 's'\n[[quota]]\nprefix='a'\nbytes=-1", "-1"),
            (&alike, "two quotas are for \"a\""),
        ] {
            fs::write(&config, text).unwrap();
            let error = gather(&["--config", config.to_str().unwrap()]).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(gather(&["--config", "/nowhere/x.toml"]).is_err());
    }
}
