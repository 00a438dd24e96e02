/* CPython's shell, with the standard library in the image: every module of it is a frozen one. */
#include <Python.h>

extern const struct _frozen standard_library[];

int main(int argc, char **argv)
{
    PyImport_FrozenModules = standard_library;
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    /* Nothing is looked for in files: no path, no site, no environment. */
    config.module_search_paths_set = 1;
    config.site_import = 0;
    config.use_environment = 0;
    config.pathconfig_warnings = 0;
    config.write_bytecode = 0;
    PyStatus status = PyConfig_SetBytesString(&config, &config.stdlib_dir, "");
    if (!PyStatus_Exception(status))
        status = PyConfig_SetBytesArgv(&config, argc, argv);
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
    return Py_RunMain();
}
