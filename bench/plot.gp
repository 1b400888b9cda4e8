# Draws results.svg from the files that report.sql has written.

set terminal svg size 1000,800 font "sans-serif,12" noenhanced background "white"
set output "results.svg"
set datafile separator "\t"
set multiplot layout 2,2 title title

set style fill solid
set style histogram clustered gap 1
set boxwidth 0.9
set grid ytics
set key top left

color(name) = name eq "pg_background" ? "#336791" : \
    name eq "other build" ? "#8fb8de" : \
    name eq "dblink open" ? "#d55e00" : \
    name eq "dblink new" ? "#f0a35e" : "#999999"

# Each file has a column a contender, whoever takes part, and none where its
# comparisons were not made.
file = ""
head(i) = system(sprintf("head -n 1 %s | cut -f %d | sed 's/\302\240/ /g'", file, i))
columns(file) = int(system(sprintf("awk -F '\t' 'NR == 2 { n = NF } END { print n + 0 }' %s", file)))

set logscale y
set ylabel "ms, logarithmic"
set title "Median time of a job"
file = "jobs.tsv"
if (columns(file) > 1) plot for [i = 2:columns(file)] file using i:xtic(1) with histogram lc rgb color(head(i)) title head(i)

unset logscale y
set yrange [0:*]
set ylabel "ms"
set title "Reading 1,000,000 small rows; 1,000 of 100 kB"
file = "rows.tsv"
if (columns(file) > 1) plot for [i = 2:columns(file)] file using i:xtic(1) with histogram lc rgb color(head(i)) title head(i)

set ylabel "jobs a second"
set xlabel "sessions"
set logscale x 2
set title "Small jobs of many sessions"
file = "sessions.tsv"
if (columns(file) > 1) plot for [i = 2:columns(file)] file using 1:i with linespoints lw 2 pt 7 lc rgb color(head(i)) title head(i)

unset xlabel
unset logscale x
set ylabel "ms"
set title "From the end of one job, of four, to going on"
file = "wait.tsv"
if (columns(file) > 1) plot for [i = 2:columns(file)] file using i:xtic(1) with histogram lc rgb color(head(i)) title head(i)
