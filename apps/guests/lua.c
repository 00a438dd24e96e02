/* The part of Lua's shell that scripts need: lua -e CODE, lua FILE. */
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    lua_State *state = luaL_newstate();
    luaL_openlibs(state);
    int code = argc == 3 && strcmp(argv[1], "-e") == 0;
    if (argc < 2 || (code ? luaL_dostring(state, argv[2]) : luaL_dofile(state, argv[1]))) {
        fprintf(stderr, "lua: %s\n", argc < 2 ? "no script" : lua_tostring(state, -1));
        return 1;
    }
    lua_close(state);
    return 0;
}
