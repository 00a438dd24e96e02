//! Reads an object and checks it.

use std::cell::OnceCell;

use goblin::elf::header::{EI_CLASS, EI_DATA, ELFCLASS64, ELFDATA2LSB, EM_X86_64, ET_DYN, ET_REL};
use goblin::elf::section_header::{
    SHF_COMPRESSED, SHF_LINK_ORDER, SHN_ABS, SHN_COMMON, SHN_LORESERVE, SHN_UNDEF, SHN_XINDEX,
    SHT_GROUP, SHT_NOBITS, SHT_NULL, SHT_REL, SHT_RELA, SHT_STRTAB, SHT_SYMTAB, SHT_SYMTAB_SHNDX,
    SectionHeader,
};
use goblin::elf::sym::{STB_GLOBAL, STB_GNU_UNIQUE, STB_LOCAL, STB_WEAK};
use goblin::elf::{Elf, Header};

use super::entries::{self, SymbolEntry};
use super::{Binding, Group, Object, Place, SHF_EXCLUDE, Section, Symbol};
use crate::link::error::LinkError;

/// Alignments past this are a sign of damage (and past any page size).
const MAX_ALIGNMENT: u64 = 1 << 21;
const GRP_COMDAT: u32 = 1;

impl<'a> Object<'a> {
    /// Reads the object in `bytes`; `name` is for messages.
    pub(in crate::link) fn parse(name: &str, bytes: &'a [u8]) -> Result<Self, LinkError> {
        let reader = Reader { name, bytes };
        let header = reader.header()?;
        let headers = reader.section_headers(&header)?;
        let names = reader.section_names(&header, &headers)?;
        let mut sections = reader.sections(&headers, &names)?;
        let (symbols, symbol_table) = reader.symbols(&headers)?;
        reader.relocations(&headers, symbol_table, symbols.len(), &mut sections)?;
        let groups = reader.groups(&headers, &symbols, &sections)?;
        Ok(Self {
            name: name.to_owned(),
            sections,
            symbols,
            groups,
            entered: OnceCell::new(),
        })
    }
}

/// True for a member of an archive that no link for x86-64 takes: not an object, one for another machine, or
/// one of compiler intermediate code.
pub(in crate::link) fn is_foreign(bytes: &[u8]) -> bool {
    let field = |at: usize| {
        bytes
            .get(at..at + 2)
            .map(|b| u16::from_le_bytes([b[0], b[1]]))
    };
    let class = bytes.get(EI_CLASS).zip(bytes.get(EI_DATA));
    !bytes.starts_with(b"\x7fELF")
        || class != Some((&ELFCLASS64, &ELFDATA2LSB))
        || field(16) != Some(ET_REL)
        || field(18) != Some(EM_X86_64)
}

/// The object being read.
struct Reader<'n, 'a> {
    name: &'n str,
    bytes: &'a [u8],
}

impl<'a> Reader<'_, 'a> {
    fn fault(&self, problem: impl Into<String>) -> LinkError {
        LinkError::input(self.name, problem)
    }

    fn damaged(&self, what: &str) -> LinkError {
        self.fault(format!("damaged object file: {what}; compile it again"))
    }

    fn header(&self) -> Result<Header, LinkError> {
        if self.bytes.starts_with(b"BC\xc0\xde") {
            return Err(
                self.fault(
                    "holds LLVM bitcode (LTO), not machine code: let clang link it (it names its -plugin, LLVMgold.so), \
                     or compile it without -flto",
                )
            );
        }
        if !self.bytes.starts_with(b"\x7fELF") {
            return Err(self.fault(
                "not an ELF object, an archive or a linker script: check what is on the command \
                 line",
            ));
        }
        let class = self.bytes.get(EI_CLASS).copied();
        let order = self.bytes.get(EI_DATA).copied();
        if class != Some(ELFCLASS64) || order != Some(ELFDATA2LSB) {
            return Err(self.fault(
                "not a 64-bit little-endian object: compile for x86-64 (without -m32 or -mx32)",
            ));
        }
        let header = Elf::parse_header(self.bytes).map_err(|_| self.damaged("truncated header"))?;
        if header.e_machine != EM_X86_64 {
            return Err(self.fault(format!(
                "compiled for machine {}, not x86-64: compile it for x86-64",
                header.e_machine
            )));
        }
        match header.e_type {
            ET_REL => Ok(header),
            ET_DYN => Err(self.fault(
                "a shared library (or a position-independent program): pool link makes static \
                 executables; give it the static archive (.a) instead",
            )),
            other => Err(self.fault(format!(
                "an ELF file of type {other}, not a relocatable object: link the objects it was \
                 made from"
            ))),
        }
    }

    fn section_headers(&self, header: &Header) -> Result<Vec<SectionHeader>, LinkError> {
        let start = usize::try_from(header.e_shoff)
            .ok()
            .filter(|start| *start < self.bytes.len())
            .ok_or_else(|| self.damaged("section headers past the end of the file"))?;
        // More than the field can say.
        let count = match header.e_shnum {
            0 => entries::section_headers(self.bytes, start, 1)
                .and_then(|first| usize::try_from(first.first()?.sh_size).ok())
                .filter(|count| *count <= self.bytes.len() / 64)
                .ok_or_else(|| self.damaged("no sections"))?,
            count => usize::from(count),
        };
        entries::section_headers(self.bytes, start, count)
            .ok_or_else(|| self.damaged("section headers past the end of the file"))
    }

    fn range(&self, header: &SectionHeader) -> Result<&'a [u8], LinkError> {
        if header.sh_type == SHT_NOBITS || header.sh_type == SHT_NULL {
            return Ok(&[]);
        }
        let start = usize::try_from(header.sh_offset).ok();
        let size = usize::try_from(header.sh_size).ok();
        start
            .zip(size)
            .and_then(|(start, size)| self.bytes.get(start..start.checked_add(size)?))
            .ok_or_else(|| self.damaged("a section lies past the end of the file"))
    }

    fn strings(&self, headers: &[SectionHeader], index: usize) -> Result<Strings<'a>, LinkError> {
        let header = headers
            .get(index)
            .filter(|h| h.sh_type == SHT_STRTAB)
            .ok_or_else(|| self.damaged("a string table is missing"))?;
        Ok(Strings::new(self.range(header)?))
    }

    fn section_names(
        &self,
        header: &Header,
        headers: &[SectionHeader],
    ) -> Result<Strings<'a>, LinkError> {
        let index = if u32::from(header.e_shstrndx) == SHN_XINDEX {
            headers.first().map_or(0, |h| h.sh_link as usize)
        } else {
            usize::from(header.e_shstrndx)
        };
        self.strings(headers, index)
    }

    fn sections(
        &self,
        headers: &[SectionHeader],
        names: &Strings<'a>,
    ) -> Result<Vec<Section<'a>>, LinkError> {
        headers
            .iter()
            .map(|header| {
                let name = names
                    .get(header.sh_name)
                    .ok_or_else(|| self.damaged("a section's name is missing, or is no UTF-8"))?;
                let alignment = header.sh_addralign.max(1);
                if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
                    return Err(self.fault(format!(
                        "section {name} has the alignment {alignment}: a power of two up to \
                         {MAX_ALIGNMENT} is supported"
                    )));
                }
                if header.sh_size > 1 << 31 {
                    return Err(self.fault(format!(
                        "section {name} has {} bytes, more than the 2 GiB that the small code \
                         model reaches",
                        header.sh_size
                    )));
                }
                if header.sh_flags & u64::from(SHF_COMPRESSED) != 0 {
                    return Err(self.damaged(&format!(
                        "section {name} is compressed though it is loaded, or has no size"
                    )));
                }
                // Of what is for the linker alone (.llvm.call-graph-profile) they are of no account.
                let of = headers.get(header.sh_info as usize);
                let is_left_out = of.is_some_and(|of| of.sh_flags & u64::from(SHF_EXCLUDE) != 0);
                if header.sh_type == SHT_REL && !is_left_out {
                    return Err(self.fault("has relocations without addends: not x86-64 code"));
                }
                let is_content = !matches!(
                    header.sh_type,
                    SHT_NULL | SHT_RELA | SHT_SYMTAB | SHT_STRTAB | SHT_GROUP | SHT_SYMTAB_SHNDX
                );
                Ok(Section {
                    name,
                    kind: header.sh_type,
                    flags: header.sh_flags,
                    alignment,
                    size: header.sh_size,
                    entry_size: header.sh_entsize,
                    bytes: self.range(header)?,
                    relocations: Vec::new(),
                    about: (header.sh_flags & u64::from(SHF_LINK_ORDER) != 0)
                        .then_some(header.sh_link as usize)
                        .filter(|about| (1..headers.len()).contains(about)),
                    is_content,
                    keeps_name: false,
                    is_alone: false,
                    gathered: None,
                })
            })
            .collect()
    }

    /// The symbols and the index of their table.
    fn symbols(
        &self,
        headers: &[SectionHeader],
    ) -> Result<(Vec<Symbol<'a>>, Option<usize>), LinkError> {
        let Some(index) = headers.iter().position(|h| h.sh_type == SHT_SYMTAB) else {
            return Ok((Vec::new(), None));
        };
        let table = &headers[index];
        let entries = entries::symbols(self.range(table)?);
        let names = self.strings(headers, table.sh_link as usize)?;
        let extended = headers.iter().find(|h| h.sh_type == SHT_SYMTAB_SHNDX);
        let extended = extended.map(|h| self.range(h)).transpose()?;
        let symbols = entries
            .enumerate()
            .map(|(at, entry)| {
                let place = self.place(entry.section, at, extended, headers.len())?;
                self.symbol(&entry, place, &names)
            })
            .collect::<Result<_, _>>()?;
        Ok((symbols, Some(index)))
    }

    fn symbol(
        &self,
        entry: &SymbolEntry,
        place: Place,
        names: &Strings<'a>,
    ) -> Result<Symbol<'a>, LinkError> {
        let name = names
            .get(entry.name)
            .ok_or_else(|| self.damaged("a symbol's name is missing, or is no UTF-8"))?;
        // The default version of a name is what the name without one means (`.symver`).
        let has_version = place != Place::Undefined && name.as_bytes().contains(&b'@');
        let default = has_version.then(|| name.split_once("@@")).flatten();
        let name = default.map_or(name, |(name, _)| name);
        let binding = match entry.binding {
            STB_LOCAL => Binding::Local,
            STB_GLOBAL | STB_GNU_UNIQUE => Binding::Global,
            STB_WEAK => Binding::Weak,
            other => {
                return Err(self.fault(format!("symbol {name} has the binding {other}")));
            }
        };
        let distance = (entry.value as i64).unsigned_abs();
        if matches!(place, Place::Section(_)) && distance > 1 << 32 {
            return Err(self.damaged(&format!("symbol {name} lies far from its section")));
        }
        if place == Place::Common
            && (!entry.value.max(1).is_power_of_two()
                || entry.value > MAX_ALIGNMENT
                || entry.size > 1 << 31)
        {
            return Err(self.damaged(&format!("common symbol {name} has no sane size")));
        }
        Ok(Symbol {
            name,
            value: entry.value,
            size: entry.size,
            binding,
            kind: entry.kind,
            visibility: entry.visibility,
            place,
        })
    }

    fn place(
        &self,
        index: u16,
        symbol: usize,
        extended: Option<&[u8]>,
        sections: usize,
    ) -> Result<Place, LinkError> {
        let missing = || self.damaged("a symbol lies in a section that does not exist");
        let section = match u32::from(index) {
            SHN_UNDEF => return Ok(Place::Undefined),
            SHN_ABS => return Ok(Place::Absolute),
            SHN_COMMON => return Ok(Place::Common),
            SHN_XINDEX => {
                let table = extended.ok_or_else(missing)?;
                let entry = table.get(symbol * 4..symbol * 4 + 4).ok_or_else(missing)?;
                u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]) as usize
            }
            reserved if reserved >= SHN_LORESERVE => return Err(missing()),
            index => index as usize,
        };
        if section < sections {
            Ok(Place::Section(section))
        } else {
            Err(missing())
        }
    }

    fn relocations(
        &self,
        headers: &[SectionHeader],
        symbol_table: Option<usize>,
        symbols: usize,
        sections: &mut [Section<'a>],
    ) -> Result<(), LinkError> {
        for header in headers.iter().filter(|h| h.sh_type == SHT_RELA) {
            if Some(header.sh_link as usize) != symbol_table {
                return Err(self.damaged("relocations refer to a symbol table that is missing"));
            }
            let entries = entries::relocations(self.range(header)?);
            let target = sections
                .get_mut(header.sh_info as usize)
                .filter(|s| s.is_content)
                .ok_or_else(|| self.damaged("relocations for a section that does not exist"))?;
            if target.is_zero() && entries.len() > 0 {
                return Err(self.damaged("relocations for a section without contents"));
            }
            target.relocations.reserve(entries.len());
            for entry in entries {
                if entry.symbol >= symbols {
                    return Err(self.damaged("a relocation refers to a symbol that is missing"));
                }
                if entry.offset >= target.size {
                    return Err(self.damaged("a relocation lies past its section"));
                }
                target.relocations.push(entry);
            }
        }
        Ok(())
    }

    fn groups(
        &self,
        headers: &[SectionHeader],
        symbols: &[Symbol<'a>],
        sections: &[Section<'a>],
    ) -> Result<Vec<Group<'a>>, LinkError> {
        let mut groups = Vec::new();
        for header in headers.iter().filter(|h| h.sh_type == SHT_GROUP) {
            let mut words = self
                .range(header)?
                .chunks_exact(4)
                .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
            if words.next() != Some(GRP_COMDAT) {
                continue;
            }
            let signature = symbols
                .get(header.sh_info as usize)
                .ok_or_else(|| self.damaged("a section group has no signature"))?;
            // A section symbol as signature stands for the section's name.
            let signature = match (signature.name, signature.place) {
                ("", Place::Section(index)) => sections[index].name,
                (name, _) => name,
            };
            let members: Vec<usize> = words.map(|w| w as usize).collect();
            if members.iter().any(|index| *index >= sections.len()) {
                return Err(self.damaged("a section group names a section that does not exist"));
            }
            groups.push(Group {
                signature,
                sections: members,
            });
        }
        Ok(groups)
    }
}

/// A string table. Not goblin's: that one checks every string of the table up front.
struct Strings<'a> {
    bytes: &'a [u8],
    /// All of it, if it is UTF-8, so that no name has to be looked at for that.
    text: Option<&'a str>,
}

impl<'a> Strings<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let text = std::str::from_utf8(bytes).ok();
        Self { bytes, text }
    }

    fn get(&self, offset: usize) -> Option<&'a str> {
        let rest = self.bytes.get(offset..)?;
        let length = rest.iter().position(|b| *b == 0)?;
        match self.text {
            Some(text) => text.get(offset..offset + length),
            None => std::str::from_utf8(&rest[..length]).ok(),
        }
    }
}
