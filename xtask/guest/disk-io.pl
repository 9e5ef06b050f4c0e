# SPDX-License-Identifier: Apache-2.0
# Requests to a disk, past the guest's page cache, with a word when they begin and one when they are done:
#   perl disk-io.pl DISK read|write sequential|random BYTES COUNT
use strict;
my ($disk, $verb, $order, $bytes, $count) = @ARGV;
# O_RDWR, and arm64's O_DIRECT, which wants an aligned buffer.
sysopen(my $file, $disk, 2 | 0x10000) or die "$disk: $!";
my $buffer = "\0" x ($bytes + 4096);
my $aligned = 4096 - unpack("J", pack("p", $buffer)) % 4096;
my $blocks = int(sysseek($file, 0, 2) / $bytes);
my $random = 1;
$| = 1;
print "begun\n";
for my $number (0 .. $count - 1) {
    # The same numbers as in costs.rs.
    $random = ($random * 1103515245 + 12345) & 0x7fffffff;
    my $block = $order eq "random" ? ($random >> 8) % $blocks : $number;
    sysseek($file, $block * $bytes, 0) or die "$block: $!";
    my $done = $verb eq "read"
        ? sysread($file, $buffer, $bytes, $aligned)
        : syswrite($file, $buffer, $bytes, $aligned);
    $done == $bytes or die "$verb $block: $!";
}
print "done\n";
