"""What a step's package holds of the user's project and of lokki, and how packages are written.

A package is a mapping of paths to bytes: the files that Lambda finds in /var/task. It is made in stages, which
`lokki.builder.builder` calls one after the other:

1. `sources.collect` finds what a flow needs of its project. `modules` follows imports from the flow's file, by reading
   them (`imports`, `code`), to the project's own modules; `data_files` adds what ``include`` names and the data of
   packages, walking folders by `file_tree`; `sensitive` says which files look like secrets. `lazy_walk` goes on from
   all of these through imports by computed names (`lazy_imports`). `unpacked` notes what the code names and no package
   would have. `sources.lokki_files` adds what of lokki runs a step.
2. `local_packages` adds the metadata of what is installed from folders of this machine.
3. `trimming.trim` gives each step its own copy, in which the bodies of other steps are left out where nothing can call
   them; `reaching` looks for all that could.
4. Here `lokki.builder.requirements` chooses what the package holds of what is required.
5. `import_check.check_packages` compares what modules import with what their package, Python and Lambda have.
6. `folder.write_bundle` writes what the builder made of all this (`Bundle`): packed by `archive`, in place of the last
   build. `sizes` refuses what Lambda would not take.

What must never happen:

- Code of the project is run. Everything here reads: imports are found by parsing, files by looking at them.
- A body is left out that some code could call: in doubt it stays.
- A secret is packed that the user did not name by its very path.
- Equal input gives other bytes. A package is named by a hash of its content, and a changed name is a deployment; so no
  clock, user, machine, folder or hash seed may leave a trace, and a comment in what of lokki runs only on laptops must
  change no package.
- A failed build leaves half a folder.

Start reading at `sources.collect`, then `trimming.trim`, then `folder.write_bundle`.
"""
