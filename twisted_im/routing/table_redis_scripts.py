"""What the route table in Redis is made of: its keys, and the scripts that change them.

    im:u:<user>     hash     boot, device, node's name → session number    an entry: only the run of that boot writes it
    im:v:<boot>     string   the version of all entries of this run        changes with each change of them, in one script
    im:i:<boot>     set      device, user                                  all of them, to be removed when the run is over
    im:nodes        hash     boot, node's name → a mark that moves         with each refresh

Strategy: what belongs together is changed in one script, so a replica, a crash or another node never sees half of it. The scripts keep to
the commands of Redis 6.2. They use keys that are not in KEYS, which a Redis Cluster does not allow: a server of a table is a single one, or
a master with replicas.
"""

from __future__ import annotations

#: Where the nodes are.
NODES = b"im:nodes"

#: KEYS: version, index. ARGV: the version expected, or "" for any; the next; seconds to live; boot; name; and then, for each row: user,
#: device, session, with a minus if it goes. Gives 1, or 0 if it has done nothing.
CHANGE = b"""
if ARGV[1] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
for at = 6, #ARGV, 3 do
  local key, device, session = 'im:u:' .. ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local field = ARGV[4] .. device .. ARGV[5]
  if string.sub(session, 1, 1) == '-' then
    if redis.call('HGET', key, field) == string.sub(session, 2) then
      redis.call('HDEL', key, field)
      redis.call('SREM', KEYS[2], device .. ARGV[at])
    end
  else
    redis.call('HSET', key, field, session)
    redis.call('EXPIRE', key, ARGV[3])
    redis.call('SADD', KEYS[2], device .. ARGV[at])
  end
end
redis.call('EXPIRE', KEYS[2], ARGV[3])
return 1
"""

#: KEYS: version, index, nodes. ARGV: the version expected; seconds to live; boot; name; the mark; and then, for each row to be touched:
#: user, device. Gives [1 if all is there, 0 if the version is another, -1 if such a row is missing; the nodes with their marks].
REFRESHED = b"""
local whole = redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0
redis.call('HSET', KEYS[3], ARGV[3] .. ARGV[4], ARGV[5])
redis.call('EXPIRE', KEYS[3], ARGV[2])
if whole == 1 then
  redis.call('EXPIRE', KEYS[1], ARGV[2])
  redis.call('EXPIRE', KEYS[2], ARGV[2])
  for at = 6, #ARGV, 2 do
    local key = 'im:u:' .. ARGV[at]
    if redis.call('HEXISTS', key, ARGV[3] .. ARGV[at + 1] .. ARGV[4]) == 1 then
      redis.call('EXPIRE', key, ARGV[2])
    else
      whole = -1
    end
  end
end
return {whole, redis.call('HGETALL', KEYS[3])}
"""

#: KEYS: version, index, nodes. ARGV: boot; name; rows at once. Removes so many entries of a run, the version first; gives how many. When
#: there is none left, the run goes from the nodes too.
CLEAR = b"""
redis.call('DEL', KEYS[1])
local rows = redis.call('SPOP', KEYS[2], ARGV[3])
for _, row in ipairs(rows) do
  redis.call('HDEL', 'im:u:' .. string.sub(row, 17), ARGV[1] .. string.sub(row, 1, 16) .. ARGV[2])
end
if #rows == 0 then redis.call('HDEL', KEYS[3], ARGV[1] .. ARGV[2]) end
return #rows
"""

#: ARGV: name; and for each user that is not there: the user. Removes the entries that say so, whichever run of that node wrote them; gives
#: how many there were.
STRAY = b"""
local gone = 0
for at = 2, #ARGV do
  local key = 'im:u:' .. ARGV[at]
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if string.sub(field, 33) == ARGV[1] then
      redis.call('HDEL', key, field)
      redis.call('SREM', 'im:i:' .. string.sub(field, 1, 16), string.sub(field, 17, 32) .. ARGV[at])
      gone = gone + 1
    end
  end
end
return gone
"""

#: ARGV: users. Gives the fields of each.
LOOK = b"""
local found = {}
for at = 1, #ARGV do found[at] = redis.call('HKEYS', 'im:u:' .. ARGV[at]) end
return found
"""

SCRIPTS = CHANGE, REFRESHED, CLEAR, STRAY, LOOK


def user_key(user: bytes) -> bytes:
    """The key of a user's entries."""
    return b"im:u:" + user


def run_keys(boot: bytes) -> tuple[bytes, bytes]:
    """The keys of a run's version and index."""
    return b"im:v:" + boot, b"im:i:" + boot
