-- Tables, strings, coroutines, closures, and the collector in both of its modes.
local count = tonumber(arg[1])
local state = 42
local function number(limit)
  state = (state * 1103515245 + 12345) % 2147483648
  return (state >> 8) % limit
end

local parts, index = {}, {}
for n = 1, count do
  local word = string.rep(string.char(97 + number(26)), 1 + number(30)) .. n
  parts[#parts + 1] = word
  index[word] = { n, word, { number(10) } }
end
local text = table.concat(parts, " ")
print(#text, select(2, text:gsub("(%a+)(%d+)", "%2%1")))

table.sort(parts)
print(parts[1], parts[#parts // 2], parts[#parts])
for n = 1, #parts, 2 do index[parts[n]] = nil end
local left = 0
for _ in pairs(index) do left = left + 1 end
print("left", left)

local function walk(tree)
  if tree then
    walk(tree.left)
    coroutine.yield(tree.key)
    walk(tree.right)
  end
end
local function insert(tree, key)
  if not tree then return { key = key } end
  if key < tree.key then tree.left = insert(tree.left, key) else tree.right = insert(tree.right, key) end
  return tree
end
local tree
for _ = 1, count // 4 do tree = insert(tree, number(1000000)) end
local sum, last = 0, -1
for key in coroutine.wrap(function() walk(tree) end) do
  assert(key >= last)
  sum, last = (sum * 31 + key) % 1000000007, key
end
print("sum", sum)

for _, mode in ipairs { "generational", "incremental" } do
  collectgarbage(mode)
  local ring = {}
  for n = 1, count do
    ring[n % 1000] = { string.format("%08d", n), function() return n end }
  end
  print(mode, ring[7][1], ring[999][2]())
end

local big = {}
for n = 1, 12 do big[n] = string.rep("x", 1 << n) .. (big[n - 1] or "") end
print(#big[12], pcall(string.rep, "x", -1))
print(select("#", pcall(error, { code = 7 })))
