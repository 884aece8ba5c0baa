# Hashes, strings, symbols, big numbers, threads, fibers, a child process, and the collector.
count = ARGV[0].to_i
state = 7
number = ->(limit) { state = (state * 1_103_515_245 + 12_345) % 2_147_483_648; (state >> 8) % limit }

words = Array.new(count) { |n| ('a'.ord + number.(26)).chr * (1 + number.(40)) + n.to_s }
index = words.group_by { |word| word[0] }
index.sort.each { |letter, list| print letter, list.size, ' ' }
puts
text = words.join(' ')
puts text.size, text.scan(/([a-c]+)(\d+)/).size, text.gsub(/\d/) { |digit| (9 - digit.to_i).to_s }.sum
puts words.sort_by { |word| [word.size, word] }.values_at(0, count / 2, -1).inspect

nested = words.each_slice(10).map { |slice| { slice.first.to_sym => slice.to_h { |word| [word, word.size] } } }
puts Marshal.load(Marshal.dump(nested)) == nested
puts (2**(count / 10)).to_s.size, (1..200).reduce(:*).digits.sum

threads = Array.new(4) do |id|
  Thread.new { (1..count / 8).map { |n| "#{id}-#{n}" * (n % 5) }.map(&:size).sum }
end
puts threads.map(&:value).inspect
fiber = Fiber.new { 1000.times { |n| Fiber.yield('f' * n) } ; :done }
puts Array.new(1000) { fiber.resume.size }.sum, fiber.resume
GC.start(full_mark: true)
words = nil
3.times { Array.new(count) { |n| n.to_s * 3 } ; GC.start }

reader, writer = IO.pipe
child = fork { reader.close ; writer.write(index.values.map(&:size).sum) ; writer.close ; exit! 3 if index.empty? }
writer.close
puts reader.read, Process.wait2(child)[1].exitstatus
begin
  raise ArgumentError, 'x' * 1000
rescue ArgumentError => e
  puts e.message.size
end
