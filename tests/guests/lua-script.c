/* Runs a Lua script that is built in. */
#include "guest.h"
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

static const char script[] =
    "local function fib(n) if n < 2 then return n end return fib(n-1) + fib(n-2) end\n"
    "print('fib', fib(24))\n"
    "local words = {}\n"
    "for w in ('the pool keeps each distinct page once'):gmatch('%a+') do\n"
    "  words[#words + 1] = w:upper():reverse()\n"
    "end\n"
    "table.sort(words)\n"
    "print('words', table.concat(words, ' '))\n"
    "local t, seed = {}, 42\n"
    "for i = 1, 2000 do seed = (seed * 1103515245 + 12345) % 2147483648; t[i] = seed end\n"
    "table.sort(t, function(a, b) return a > b end)\n"
    "print('sort', t[1], t[1000], t[2000])\n"
    "print('math', string.format('%.6f %.6f %d', math.sin(1), math.exp(1.5), 7 // 2))\n"
    "local ok, message = pcall(function() error({code = 7}) end)\n"
    "print('error', ok, message.code)\n"
    "local co = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i * i) end end)\n"
    "print('coroutine', co(), co(), co())\n"
    "print('gsub', (('page 12, page 34'):gsub('%d+', function(n) return n * 2 end)))\n";

int main(int argc, char **argv)
{
    guest_begin(argc, argv);
    lua_State *lua = luaL_newstate();
    if (lua == NULL)
        return fprintf(stderr, "no memory\n"), 1;
    luaL_openlibs(lua);
    if (luaL_dostring(lua, script) != LUA_OK) {
        fprintf(stderr, "%s\n", lua_tostring(lua, -1));
        return 1;
    }
    lua_close(lua);
    return guest_end(argc, argv);
}
